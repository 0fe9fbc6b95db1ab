"""A path in a grid starts where the sweep is started, whatever folder its program runs in."""

from simlab.sweeps import parse_grid


def test_a_path_that_exists_is_made_absolute(tmp_path, monkeypatch):
    """A notebook runs in its own folder, from which ./photos would be another one."""
    (tmp_path / "here" / "photos").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "here")
    monkeypatch.setenv("HOME", str(tmp_path))
    photos = str(tmp_path / "here" / "photos")
    word = "data=./photos,../here/photos,~/here/photos,photos,./gone,simsiam lr=1/2"
    grid = parse_grid([word], {"data": "emoji"})
    assert grid["data"] == [photos] * 3 + ["photos", "./gone", "simsiam lr=1/2"]
    assert parse_grid(['data="./photos"'], {"data": "emoji"})["data"] == ["./photos"]
