"""The lines of docs/evaluation.md run, with small models in the place of downloaded ones."""

import re
import runpy
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

DOCS = (Path(__file__).parents[2] / "docs" / "evaluation.md").read_text(encoding="utf-8")
WHITENED, HUGGING_FACE, ONNX = re.findall(r"```python\n(.*?)```", DOCS, re.DOTALL)
PRETRAINED = 'AutoModel.from_pretrained("facebook/dinov2-small")'
SMALL = (
    "AutoModel.from_config(transformers.ViTConfig(hidden_size=8, num_hidden_layers=1, "
    "num_attention_heads=1, intermediate_size=8, image_size=32, patch_size=8))"
)


def run_lines(lines, folder, monkeypatch):
    monkeypatch.setenv("SIMLAB_RUNS", str(folder / "runs"))
    monkeypatch.chdir(folder)
    generator = np.random.default_rng(0)
    for name in ("ant", "bee"):
        (folder / "images" / name).mkdir(parents=True)
        for i in range(100):
            pixels = generator.integers(0, 256, (32, 32, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "images" / name / f"{i}.png")
    script = folder / "lines.py"
    script.write_text(lines.replace("path/to/images", "images"), encoding="utf-8")
    runpy.run_path(str(script), run_name="__main__")


def test_whitened_features_are_judged(tmp_path, monkeypatch, capsys):
    run_lines(WHITENED, tmp_path, monkeypatch)
    plain, whitened = map(float, capsys.readouterr().out.split()[-2:])
    assert 0 < plain <= 1 and 0 < whitened <= 1


def test_a_model_of_hugging_face_is_judged(tmp_path, monkeypatch, capsys):
    pytest.importorskip("transformers")
    assert PRETRAINED in HUGGING_FACE
    lines = HUGGING_FACE.replace(PRETRAINED, SMALL)
    lines = lines.replace("size=224, resize=256", "size=32, resize=36")
    run_lines(lines, tmp_path, monkeypatch)
    output = capsys.readouterr().out
    assert "dinov2-small" in output and "untrained twin" in output and "raw pixels" in output


def test_an_onnx_file_is_judged(tmp_path, monkeypatch, capsys):
    pytest.importorskip("onnxruntime")
    onnx = pytest.importorskip("onnx")
    helper, kind = onnx.helper, onnx.TensorProto.FLOAT
    pool = helper.make_node("AveragePool", ["x"], ["y"], kernel_shape=[8, 8], strides=[8, 8])
    flat = helper.make_node("Flatten", ["y"], ["z"])
    x = helper.make_tensor_value_info("x", kind, ["n", 3, 32, 32])
    z = helper.make_tensor_value_info("z", kind, ["n", 48])
    graph = helper.make_graph([pool, flat], "encoder", [x], [z])
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)
    onnx.save(model, tmp_path / "encoder.onnx")
    run_lines(ONNX, tmp_path, monkeypatch)
    output = capsys.readouterr().out
    assert "encoder.onnx" in output and "no untrained twin: a function has no weights" in output


def test_every_protocol_and_kind_of_encoder_is_in_the_table():
    from simlab.evaluate.bench import PROTOCOLS
    from simlab.evaluate.bench.sources import LIBRARIES

    for protocol in PROTOCOLS:
        assert f"| `{protocol}`" in DOCS, protocol
    for library in LIBRARIES:
        assert f"`{library}:" in DOCS, library
