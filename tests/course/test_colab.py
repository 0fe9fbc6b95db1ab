"""The first lessons on Colab's versions of what runs notebooks and draws, beside this torch.

The versions are those of Colab's image of August 2026 (googlecolab/backend-info, pip-freeze.txt), and
a pytz, which pandas needs before its version 3.
"""

import subprocess
import sys

import lessons
import nbformat
import papermill
import pytest

COLAB = """
ipywidgets==7.7.1 ipython==7.34.0 ipykernel==6.17.1 ipython-genutils==0.2.0 widgetsnbextension==3.6.10
traitlets==5.7.1 jupyter_client==7.4.9 jupyter_core==5.9.1 matplotlib-inline==0.2.2 tornado==6.5.7
numpy==2.1.3 pandas==2.2.3 scipy==1.16.3 scikit-learn==1.6.1 matplotlib==3.10.0 pillow==11.3.0
psutil==5.9.5 tqdm==4.67.3 pytz==2025.2 decorator==4.4.2 pickleshare==0.7.5 backcall==0.2.0 setuptools==75.2.0
"""
VIEW = "application/vnd.jupyter.widget-view+json"
TELL = "import IPython, ipywidgets, numpy\nprint(IPython.__version__, ipywidgets.__version__, numpy.__version__)"


@pytest.fixture(scope="module")
def colab(tmp_path_factory):
    """A folder with Colab's packages, to stand before all others on Python's path."""
    folder = tmp_path_factory.mktemp("colab")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(folder)]
    done = subprocess.run([*pip, *COLAB.split()], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"pip can't install Colab's versions here: {done.stderr[-200:]}")
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """The notebooks with parameters of seconds, and simlab as if cloned beside them."""
    home = tmp_path_factory.mktemp("home")
    lessons.prepare(home)
    return home


def is_bar(output):
    """Whether it is a progress bar, which is a widget too."""
    return "%|" in output.data.get("text/plain", "")


def waits(output):
    """Whether it is shown before there is anything to draw, as the curves of a training are."""
    return output.metadata.get("image/png") == {"alt": ""}


@pytest.mark.slow
@pytest.mark.notebook
@pytest.mark.parametrize("name", ["00_start_here", "01_pretraining", "02_linear_probe"])
def test_a_lesson_runs_on_colab_s_versions(name, colab, home, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(colab))
    monkeypatch.setenv("SIMLAB_RUNS", str(home / "runs"))
    path, executed = home / f"{name}.ipynb", home / f"{name}.executed.ipynb"
    notebook = nbformat.read(path, as_version=4)
    notebook.cells.append(nbformat.v4.new_code_cell(TELL))
    nbformat.write(notebook, path)
    papermill.execute_notebook(path, executed, cwd=str(home), progress_bar=False)
    cells = lessons.code_of(nbformat.read(executed, as_version=4))
    assert cells[-1].outputs[0].text.split() == ["7.34.0", "7.7.1", "2.1.3"]
    views = [o for cell in cells for o in cell.outputs if VIEW in o.get("data", {})]
    drawn = [output for output in views if not is_bar(output) and not waits(output)]
    assert drawn, "the lesson shows no widget"
    for output in drawn:
        assert "image/png" in output.data, "with the figure of its first state"
        assert output.data[VIEW]["version_major"] == 2
    for cell in cells:
        for output in cell.outputs:
            text = output.get("text", "") + "".join(output.get("data", {}).get("text/plain", ""))
            assert len(text) < 5000, "a widget's repr instead of the widget"
            assert "DeprecationWarning" not in text
