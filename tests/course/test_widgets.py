"""Widgets as plain Python: every control changes the image and its text, without a kernel."""

import base64
import io
import re

import explorers
import ipywidgets
import matplotlib
import numpy as np
import pandas as pd
import pytest
import torch
from executed import lasting
from nbformat.v4 import new_output
from PIL import Image

from simlab.augment import RECIPES, Augment, Normalize
from simlab.evaluate import COMPLETE_STD_RATIO, Features
from simlab_course import figures as plots
from simlab_course import widgets

pytestmark = pytest.mark.long

every_widget = pytest.mark.parametrize("name", explorers.NAMES)


@pytest.fixture(scope="module")
def every():
    """Every public widget by name. A test that moves a control moves it back."""
    return explorers.every()


def test_every_widget_is_named(every):
    assert tuple(every) == explorers.NAMES


def other_value(control):
    """A value of the control other than the one it has."""
    if isinstance(control, ipywidgets.Checkbox):
        return not control.value
    if hasattr(control, "options"):
        values = [o[1] if isinstance(o, tuple) else o for o in control.options]
        return next(v for v in reversed(values) if v != control.value)
    if isinstance(control.value, tuple):
        return control.value[0] + control.step, control.value[1] - control.step
    return control.max if control.value != control.max else control.min


@pytest.mark.long
@every_widget
def test_a_moved_control_changes_image_and_text(name, every):
    made = every[name]
    for control, moved in made.controls.items():
        before, was, alt = made.image.value, moved.value, made.alt
        moved.value = other_value(moved)
        assert made.alt != alt and made.image.value != before, control
        moved.value = was
        assert made.alt == alt and made.image.value == before, "the same state, the same image"


@every_widget
def test_image_and_text_are_those_of_the_pure_function(name, every):
    made = every[name]
    more = {"history": explorers.HISTORY} if name == "live_curves" else {}
    figure, alt = made.draw(**made.state, **more)
    assert re.search(r"\d", alt) and len(alt) > 60, "the numbers are said as well"
    assert f'alt="{alt}"' in made.image.value.replace("&#x27;", "'")
    assert plots.png(figure) in made.image.value
    assert min(t.get_fontsize() for t in figure.findobj(matplotlib.text.Text)) >= plots.FONT - 2
    for ax in figure.axes:  # else they may lie on one another
        assert sum(bool(ax.get_title(place)) for place in ("left", "center", "right")) <= 1
    image = Image.open(io.BytesIO(base64.b64decode(made.png))).convert("RGBA")
    assert image.width >= 550 and image.getpixel((0, 0)) == (255, 255, 255, 255), "dark themes"


@every_widget
def test_a_notebook_shows_the_widget_and_everything_else_its_image(name, monkeypatch, every):
    seen = []
    monkeypatch.setattr("IPython.display.display", lambda data, **more: seen.append((data, more)))
    bundle = every[name]._repr_mimebundle_()
    monkeypatch.delattr(ipywidgets.Widget, "_repr_mimebundle_")  # as in ipywidgets 7, Colab's
    every[name]._ipython_display_()
    (data, more), view = seen[0], "application/vnd.jupyter.widget-view+json"
    assert data[view] == bundle[view]
    assert {view, "image/png", "text/plain"} == set(data)
    assert more["metadata"]["image/png"]["alt"] == data["text/plain"] == every[name].alt
    outputs = [
        new_output("display_data", data),
        new_output("display_data", {view: {}}),
        new_output("stream", name="stderr", text="epoch 1"),
    ]
    results = lasting(outputs)
    assert len(results) == 1 and set(results[0]["data"]) == {"image/png", "text/plain"}


def test_widgets_are_made_without_what_ipywidgets_7_does_not_know(monkeypatch):
    class OldButton(ipywidgets.Button):
        @classmethod
        def class_trait_names(cls, **metadata):
            return [name for name in super().class_trait_names(**metadata) if name != "tabbable"]

        def __init__(self, **values):
            assert set(values) <= set(self.class_trait_names()), "a warning, and later an error"
            super().__init__(**values)

    monkeypatch.setattr(ipywidgets, "Button", OldButton)
    heatmap = explorers.every()["layer_heatmap"]
    assert heatmap.children[1].children[1].children, "the buttons over the map are there"


def test_no_widget_uses_an_output_area(every):
    """Batch runs hang in it."""
    seen = [every[name] for name in every]
    while seen:
        widget = seen.pop()
        assert not isinstance(widget, ipywidgets.Output)
        seen += getattr(widget, "children", ())


def test_what_fails_while_a_control_moves_is_said_in_the_image():
    slider = ipywidgets.IntSlider(1, max=5)

    def draw(n):
        if n == 2:
            raise ValueError("two is <too> much")
        return plots.new_figure()[0], f"{n}"

    made = widgets.Explorer(draw, n=slider)
    with pytest.raises(ValueError, match="too"):
        slider.value = 2
    assert "&lt;too&gt;" in made.image.value and "alert" in made.image.value
    slider.value = 3
    assert 'alt="3"' in made.image.value


# -------------------------------------------------------------------------------- pretraining


def test_the_explorer_has_every_strength_of_the_recipe(every):
    made, recipe = every["two_view_explorer"], RECIPES["simsiam-imagenet"]
    state = made.state
    for name, value in vars(recipe).items():
        end = {"_min": 0, "_max": 1}.get(name[-4:])
        assert (state[name] if end is None else state[name[:-4]][end]) == value
    assert len(state) == len(vars(recipe)) - 2 + 1


@pytest.mark.parametrize("recipe", [*RECIPES.values(), Augment(ratio=50.0, crop_min=0.01)])
def test_a_slider_starts_at_the_recipe_s_strength_whatever_it_is(recipe):
    data = explorers.images()
    made = widgets.two_view_explorer(data.train.images[:2], data.normalize, recipe)
    assert made.state["ratio"] == recipe.ratio
    assert made.state["crop"] == (recipe.crop_min, recipe.crop_max)


def test_a_step_switched_on_leaves_the_other_steps_alone():
    """Two views of the same draw differ in what was changed and in nothing else."""
    grey = torch.randint(0, 255, (3, 1, 16, 16), dtype=torch.uint8)
    normalize = Normalize(torch.tensor([0.5]), torch.tensor([0.25]))
    made = widgets.two_view_explorer(grey, normalize, RECIPES["none"])
    assert [n for n, c in made.controls.items() if c.disabled] == ["saturation", "hue", "grey"]
    made.controls["crop"].value = (0.3, 0.6)
    made.controls["jitter"].value = 1.0
    made.controls["brightness"].value = made.controls["contrast"].value = 0.0
    image = made.png
    made.controls["jitter"].value = 0.0
    assert made.png == image


def test_live_curves_grow_and_are_complete_from_a_stored_history():
    live = widgets.live_curves(4)
    assert live.image.value == "" and live.png == ""
    live.on_epoch(explorers.HISTORY[:1])
    first = live.image.value
    assert "up to epoch 1 of 4" in live.alt and "not measured" in live.alt
    live.on_epoch(explorers.HISTORY)
    assert live.image.value != first and "epoch 4 of 4" in live.alt and "50.0%" in live.alt
    assert live.figure.axes[0].get_xlim() == (0.5, 4.5), "the whole run has its place"
    again = widgets.live_curves(4)
    again.on_epoch(pd.DataFrame(explorers.HISTORY))
    assert again.image.value == live.image.value


def test_before_its_first_epoch_a_run_shows_the_widget_alone(monkeypatch):
    seen = []
    monkeypatch.setattr("IPython.display.display", lambda data, **more: seen.append(data))
    widgets.live_curves(4)._ipython_display_()
    assert list(seen[0]) == ["application/vnd.jupyter.widget-view+json"]


def test_the_map_s_axes_stand_still_and_its_share_is_right(every):
    made = every["epoch_scrubber"]
    limits = [made.draw(epoch)[0].axes[0].axis() for epoch in (0, 4)]
    assert limits[0] == limits[1]
    corners = torch.tensor([[0.0, 0], [0, 1], [9, 9], [9, 8]]).numpy()
    scrubber = widgets.epoch_scrubber({3: corners}, torch.tensor([0, 0, 1, 0]), ["a", "b"])
    assert "50.0%" in scrubber.alt
    with pytest.raises(ValueError, match=r"expected \[3, 2\].*\(4, 2\)"):
        widgets.epoch_scrubber({3: corners}, torch.tensor([0, 0, 1]), ["a", "b"])
    with pytest.raises(ValueError, match="maps"):
        widgets.epoch_scrubber({}, torch.tensor([0]), ["a"])


def test_neighbours_are_the_nearest_by_cosine_and_counted_right():
    data, vectors = explorers.images(), torch.nn.functional.one_hot(explorers.LABELS, 4).float()
    good = Features(vectors * 7, explorers.LABELS, vectors[:20], explorers.LABELS[:20])
    bad = good._replace(test=-vectors[:20])
    made = widgets.neighbour_browser({"good": good, "bad": bad}, data)
    assert "good 7 of 7; bad 0 of 7" in made.alt
    copies = good._replace(train=vectors.repeat(2, 1), views=2)  # augmented copies are no images
    assert "7 of 7" in widgets.neighbour_browser({"copies": copies}, data).alt
    with pytest.raises(ValueError, match="short: features of 5"):
        widgets.neighbour_browser({"short": good._replace(train=vectors[:5])}, data)


# ------------------------------------------------------------------------------------- tables


def test_labels_needed_are_the_least_budget_that_is_as_good():
    table = pd.DataFrame([("a", 100, 0.5), ("a", 1000, 0.7), ("b", 100, 0.4), ("b", 1000, 0.6),
                          ("c", 100, 0.1), ("c", 1000, 0.2)],
                         columns=["encoder", "labels", "accuracy"])  # fmt: skip
    made = widgets.budget_slider(table)
    assert "a with 100 labels: 50.0%" in made.alt
    assert "b 1,000; c more than 1,000." in made.alt
    made.controls["encoder"].value = "c"
    assert "a 100; b 100." in made.alt
    begun = widgets.budget_slider(table).move(encoder="b", labels=1000)
    assert begun.state == {"encoder": "b", "labels": 1000} and "b with 1,000 labels" in begun.alt


@pytest.mark.parametrize("make, table", [
    (widgets.budget_slider, explorers.budgets()), (widgets.sim_beta, explorers.betas()),
    (widgets.collapse_switches, explorers.collapses()),
])  # fmt: skip
def test_a_table_that_does_not_fit_is_refused_by_name(make, table):
    first = table.columns[0]
    with pytest.raises(ValueError, match=f"no column '{first}'; did you mean '{first}s'"):
        make(table.rename(columns={first: f"{first}s"}))
    with pytest.raises(ValueError, match="no rows"):
        make(table[:0])
    with pytest.raises(ValueError, match="differ in more than the seed"):
        make(pd.concat([table, table]))


def test_switches_say_what_collapsed_and_what_was_not_run(every):
    made = every["collapse_switches"]
    assert "stop-gradient on, predictor mlp" in made.alt and "no complete collapse" in made.alt
    _, alt = made.draw(True, "none")
    assert "0.00 (1 is healthy)" in alt and alt.endswith(": collapsed.")
    _, alt = made.draw(False, "none")
    assert alt.startswith("There is no run")
    limits = [made.draw(*state)[0].axes[0].axis() for state in ((True, "mlp"), (False, "none"))]
    assert limits[0] == limits[1], "the axes stand still"
    figure, _ = made.draw(True, "mlp")
    assert plots.look_of("SimSiam")["color"] in [x.get_color() for x in figure.axes[0].lines]


def test_the_verdict_is_that_of_the_collapse_module():
    table = explorers.collapses()
    for std, word in (
        (COMPLETE_STD_RATIO * 0.99, ": collapsed"),
        (COMPLETE_STD_RATIO, "no complete"),
    ):
        assert word in widgets.collapse_switches(table.assign(std_ratio=std)).alt


def test_curves_are_means_over_seeds():
    table = explorers.collapses()
    two = pd.concat([table.assign(seed=0), table.assign(seed=1, loss=table["loss"] + 1)])
    assert "loss is -0.22" in widgets.collapse_switches(two).alt
    assert "loss is -0.72" in widgets.collapse_switches(table).alt


def test_a_beta_s_mean_interval_and_difference():
    rows = [(0.0, 0, 0.5), (0.0, 1, 0.7), (1.0, 0, 0.8), (1.0, 1, 0.9), (10.0, 0, np.nan)]
    made = widgets.sim_beta(pd.DataFrame(rows, columns=["beta", "seed", "knn"]))
    assert "knn at beta 0: 0.6 ± 1.3, 2 seeds." in made.alt  # 12.706 * 0.1414 / sqrt(2)
    made.controls["beta"].value = 1.0
    assert "0.85 ± 0.64, 2 seeds; +0.25 against beta 0" in made.alt
    made.controls["beta"].value = 10.0
    assert "not measured at beta 10" in made.alt


def test_metrics_are_the_numbers_that_differ(every):
    made = every["sim_beta"]
    assert [value for _, value in made.controls["metric"].options] == ["knn", "probe_accuracy"]
    with pytest.raises(ValueError, match="no column of numbers"):
        widgets.sim_beta(explorers.betas()[["beta", "seed", "status"]])


# ------------------------------------------------------------------------------------- similarity


@pytest.fixture
def playground(every):
    """The two estimates that the playground shows, biased and debiased."""
    made = every["cka_playground"]

    def estimates(**changes):
        alt = made.draw(**made.state | changes)[1]
        return [float(v) for v in re.search(r"biased (\S+), debiased (\S+)\.", alt).groups()]

    return estimates


@pytest.mark.parametrize("change", [{"rotate": 75}, {"scale": 0.25}, {"rotate": 30, "scale": 2.0}])
def test_cka_does_not_see_a_rotation_or_a_scale(change, playground):
    assert playground(**change) == [1.0, 1.0]


def test_cka_sees_a_stretch_and_noise(playground):
    assert max(playground(rotate=90, stretch=4.0)) < 0.8
    assert playground(noise=0.2)[1] > playground(noise=0.6)[1] > playground(noise=0.95)[1]


def test_few_points_in_many_dimensions_deceive_the_biased_estimate_alone(playground):
    biased, debiased = playground(noise=1.0, n=20, d=1000)
    assert biased > 0.9 and abs(debiased) < 0.15
    assert max(map(abs, playground(noise=1.0, n=500, d=2))) < 0.02


def test_the_heat_map_marks_the_pair_and_says_its_value(every):
    made, result = every["layer_heatmap"], explorers.comparison()
    _, alt = made.draw(1, 3, "rbf_cka")
    value = result.block(measure="rbf_cka")[1, 3]
    low, high = (bound[1, 3] for bound in result.interval(measure="rbf_cka"))
    a, b = result.layers_of("small")[1], result.layers_of("wide")[3]
    assert f"{a.label} (4 x 6 x 6) and {b.label} (6 x 6 x 6): rbf cka {value:.3f}" in alt
    assert f"{low:.3f} to {high:.3f}" in alt


def test_a_click_picks_the_cell_that_lies_under_it():
    made = widgets.layer_heatmap(explorers.comparison())
    both = made.children[1]
    buttons = both.children[1].children
    assert len(buttons) == 3 * 4
    buttons[0].click()  # at the top left: last row, first column
    assert (made.state["row"], made.state["column"]) == (2, 0)
    buttons[-1].click()
    assert (made.state["row"], made.state["column"]) == (0, 3)
    # the buttons lie on the axes: margins in shares of the image's width
    box, (width, height) = made.figure.axes[0].get_position(), made.figure.get_size_inches()
    margins = [float(m) for m in re.findall(r"[\d.]+", both.children[1].layout.margin)]
    expected = [(1 - box.y1) * height / width, 1 - box.x1, box.y0 * height / width, box.x0]
    np.testing.assert_allclose(margins, 100 * np.array(expected), atol=0.01)


def test_a_click_draws_once_and_shows_no_half_way_state():
    made = widgets.layer_heatmap(explorers.comparison())
    values = []
    made.image.observe(lambda change: values.append(change["new"]), "value")
    made.children[1].children[1].children[1].click()
    assert (made.state["row"], made.state["column"]) == (2, 1)
    assert len(values) == 1 and "small/2 (" in values[0] and "wide/1 (" in values[0]
    made.controls["row"].value = 0  # still observed
    assert "small/0 (" in values[-1]


def test_a_heat_map_too_large_for_buttons_has_its_sliders(monkeypatch):
    monkeypatch.setattr(widgets.similarity, "MOUSE_CELLS", 11)
    made = widgets.layer_heatmap(explorers.comparison())
    assert len(made.children) == 2 and made.children[1] is made.image


def test_undefined_cells_are_shown_as_such():
    torch.manual_seed(0)
    constant = torch.nn.Sequential(
        torch.nn.Linear(4, 3), torch.nn.Linear(3, 3), torch.nn.Linear(3, 2)
    )
    torch.nn.init.zeros_(constant[1].weight)
    made = widgets.layer_heatmap(explorers.compare(constant, torch.rand(30, 4)))
    _, alt = made.draw(1, 0, "cka")
    assert "cka nan" in alt


def test_long_layer_names_leave_room_for_the_map(recwarn):
    names = [
        f"encoder.stages.with.a.very.long.name.and.number.{i}.attention.output" for i in range(12)
    ]
    layers = torch.nn.Sequential()
    for name in names:
        layers.add_module(name.replace(".", "_"), torch.nn.Linear(5, 5))
    made = widgets.layer_heatmap(explorers.compare(layers.eval(), torch.rand(30, 5)))
    made.figure.draw_without_rendering()
    assert made.figure.axes[0].get_position().width > 0.25
    assert not [w for w in recwarn if "constrained_layout" in str(w.message)]
