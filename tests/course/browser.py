"""A JupyterLab of its own and a Chromium that runs a notebook in it, for tests and screenshots."""

import contextlib
import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), ""
)
RUNS = bool(CHROMIUM and importlib.util.find_spec("playwright"))  # whether there is a browser
CURRENT = "window.jupyterapp.shell.currentWidget"
# what a cell raised, from the notebook's model: on the page it looks like any other text
ERROR = f"""(() => {{
    for (const cell of {CURRENT}.content.model.cells)
        for (let i = 0; i < (cell.outputs?.length ?? 0); i++) {{
            const output = cell.outputs.get(i).toJSON();
            if (output.output_type === 'error') return `${{output.ename}}: ${{output.evalue}}`;
        }}
    return null;
}})()"""
# from the model as well: a folded cell shows no number on the page
ENDED = f"""!!{ERROR} ||
[...{CURRENT}.content.model.cells].every(
    cell => cell.type !== 'code' || cell.executionCount !== null)"""
# cells run before there is a kernel would ask for one in a dialogue
KERNEL = f"{CURRENT}?.sessionContext?.session?.kernel?.status === 'idle'"
SETTINGS = {
    "notebook-extension/tracker": {"windowingMode": "none"},  # keep what is out of sight
    "apputils-extension/notification": {"fetchNews": "false", "checkForUpdates": False},
}


@contextlib.contextmanager
def jupyterlab(folder: Path):
    """The address of a JupyterLab on `folder`, with settings of its own; it ends with the block."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as temporary:
        home = Path(temporary)
        for name, values in SETTINGS.items():
            path = home / "settings/@jupyterlab" / f"{name}.jupyterlab-settings"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(json.dumps(values))
        folders = {name: str(home / name.lower()) for name in (
            "JUPYTER_CONFIG_DIR", "JUPYTER_DATA_DIR", "JUPYTER_RUNTIME_DIR", "IPYTHONDIR",
            "JUPYTERLAB_WORKSPACES_DIR",
        )}  # fmt: skip
        server = subprocess.Popen(
            [sys.executable, "-m", "jupyterlab", "--no-browser", f"--port={port}", "--ip=127.0.0.1",
             "--ServerApp.port_retries=0", "--IdentityProvider.token=",
             "--ServerApp.allow_root=True", "--expose-app-in-browser", "--notebook-dir", str(folder)],
            env={**os.environ, **folders, "JUPYTERLAB_SETTINGS_DIR": str(home / "settings")},
            stdout=(home / "log").open("w"), stderr=subprocess.STDOUT, start_new_session=True,
        )  # fmt: skip
        try:
            for _ in range(120):
                time.sleep(0.5)
                try:
                    urllib.request.urlopen(f"http://127.0.0.1:{port}/api")
                    break
                except OSError:
                    assert server.poll() is None, (home / "log").read_text()
            yield f"http://127.0.0.1:{port}"
        finally:
            server.send_signal(signal.SIGTERM)  # which ends its kernels too
            with contextlib.suppress(subprocess.TimeoutExpired):
                server.wait(20)
            with contextlib.suppress(ProcessLookupError):
                os.killpg(server.pid, signal.SIGKILL)  # its own group and nothing else


def start(page, address: str):
    """Load JupyterLab."""
    page.goto(address, timeout=90_000)
    page.wait_for_function("window.jupyterapp", timeout=90_000)
    # what is opened before the last layout is back gives way to it
    page.evaluate("window.jupyterapp.restored.then(() => null)")


def run_all(page, path: str, images: int):
    """Open a notebook, run all its cells to the end, and wait until so many widgets show an image."""
    page.evaluate(
        "path => void window.jupyterapp.commands.execute('docmanager:open', {path})", path
    )
    page.wait_for_function(f"{CURRENT}?.context?.path === '{path}'", timeout=90_000)
    page.wait_for_selector(".jp-Notebook .jp-CodeCell", timeout=90_000)
    page.wait_for_function(KERNEL, timeout=90_000)
    page.evaluate("void window.jupyterapp.commands.execute('notebook:run-all-cells')")
    page.wait_for_function(ENDED, timeout=1_200_000)
    error = page.evaluate(ERROR)
    assert not error, error
    page.wait_for_function(
        f"document.querySelectorAll('.jp-OutputArea .widget-html img').length >= {images}",
        timeout=90_000,
    )


def close(page):
    """Ask for the end of the open notebook's kernel, and close it unsaved."""
    page.evaluate(f"void {CURRENT}.sessionContext.shutdown(); {CURRENT}.dispose()")
