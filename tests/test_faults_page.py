"""docs/faults.md says of each fault how many cases were tried: as many as the tests have."""

import os
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "faults.md"

# by the first words of a row the tests of its cases; (test, number) where one set of parameters tries several
CASES = {
    "a script that trains with two": ["train/test_launch::stopping_the_notebook"],
    "killed inside an epoch": ["runs/test_interrupted::killed_in_an_epoch"],
    "a notebook's kernel killed": ["train/test_faults::a_notebook_whose_kernel"],
    "stopped between epochs": [
        "runs/test_interrupted::stopped_between",
        "runs/test_interrupted::supervised_training_stopped",
        "runs/test_interrupted::a_run_that_died_before",
        "train/test_faults::a_run_stopped_by_the_user",
        "train/test_finetuning::a_finetuned_run_that_was_stopped",
    ],
    "disk full": ["runs/test_no_room::a_file_that_grows", "runs/test_no_room::a_full_disk"],
    "checkpoint truncated": ["runs/test_checkpoints::a_bad_checkpoint"],
    "the encoder's file": [
        "runs/test_checkpoints::a_bad_encoder_file",
        "runs/test_checkpoints::a_malicious_encoder",
    ],
    "an encoder that differs": [
        "runs/test_digests::whatever_may_change",
        ("runs/test_digests::a_global_and_a_function", 2),
        ("runs/test_digests::settings_that_no_weight", 5),
        ("runs/test_digests::what_is_used_of_a_package", 2),
        "runs/test_digests::a_module_of_the_users_that_is_kept",
    ],
    "images, labels, normalisation": [
        ("runs/test_found_again::equal_data", 5),
        "runs/test_reuse::other_images",
        "runs/test_reuse::a_normalisation",
        "runs/test_reuse::other_factors",
        "data/test_file_digests::images_replaced",
        "data/test_file_digests::exchanged_classes",
        "data/test_file_digests::a_file_is_read_once",
    ],
    "something in an encoder": [
        "runs/test_digests::what_can_not_be_digested",
        "runs/test_digests::a_scripted_module",
        "train/test_training_views::an_augmentation_that_can_not",
    ],
    "the same run in another": [
        "runs/test_digests::digests_are_the_same_in_another_process",
        "runs/test_reuse::the_same_images_by_another_name",
        "runs/test_reuse::a_run_on_a_folder_is_asked_from_elsewhere",
        ("data/test_file_digests::the_digest_is_the_same_by_any", 5),
        "runs/test_load::a_renamed_folder",
    ],
    "a run of another simlab": [
        "runs/test_reuse::a_run_of_another_simlab",
        "runs/test_reuse::a_half_done_run",
        "runs/test_reuse::other_images_and_other_code",
        ("runs/test_load::a_run_of_another_simlab", 2),
        "runs/test_load::a_run_without_encoder_json",
    ],
    "a run asked for images": [
        "runs/test_reuse::a_run_on_arrays",
        ("runs/test_reuse::a_run_on_a_folder", 3),
    ],
    "config.json or metrics.json": [
        "runs/test_no_room::a_config_changed",
        "runs/test_no_room::metrics_that_are_no_json",
        "runs/test_load::a_damaged_configuration",
    ],
    "a runs folder that can't": [
        "runs/test_no_room::a_runs_folder_that",
        "runs/test_reuse::a_runs_folder_that",
        "runs/test_reuse::a_file_system_without_locks",
    ],
    "no network": [
        "data/test_public_sets::without_download",
        "data/test_public_sets::a_failed_download",
        "data/test_public_sets::a_damaged_cifar",
    ],
    "a server that breaks off": ["train/test_faults::a_download_that_breaks_off"],
    "data files cut short": [
        "data/test_fashion::a_damaged_bundled",
        "data/test_fashion::a_missing_bundled",
        "data/test_fashion::a_damaged_file",
        "data/test_fashion::missing_files",
        "data/test_fashion::labels_that_do_not_fit",
        ("data/test_emoji::a_missing_a_damaged", 3),
    ],
    "folders called like splits": [
        "data/test_layouts::splits_are_known",
        ("data/test_layouts::unlabelled_images", 2),
    ],
    "folders that may be": ["data/test_layouts::what_is_not_understood"],
    "odd folders": [("data/test_layouts::what_is_odd", 4)],
    "links to folders": [
        ("data/test_layouts::links_are_followed", 4),
        ("data/test_layouts::what_is_left_out", 2),
        "data/test_layouts::texts_beside",
        "data/test_layouts::a_folder_of_other_files",
    ],
    "ordered labels": [
        "data/test_hold_out::ordered_labels",
        "data/test_hold_out::a_fifth_is_rounded",
        "data/test_hold_out::the_draw_is_random",
        "data/test_hold_out::unlabelled_images",
        "data/test_hold_out::groups_",
        "data/test_hold_out::a_class_of_one_group",
        "data/test_hold_out::a_folders_groups",
        "data/test_hold_out::a_file_of_groups_beside",
        "data/test_hold_out::classes_on_one_side",
    ],
    "unreadable images": [
        "data/test_broken_images::an_image_that_cannot",
        ("data/test_broken_images::all_broken_images", 2),
        "data/test_broken_images::broken_images",
        "data/test_broken_images::many_broken",
        "data/test_broken_images::domains_are_read",
    ],
    "images of 16 bits": [
        "data/test_image_files::values_of_more",
        "data/test_image_files::the_range_is",
        "data/test_image_files::what_has_no_range",
        "data/test_image_files::an_image_of_nan",
        "data/test_image_files::colour_images_of_16",
        "data/test_image_files::one_image_in_colour",
        "data/test_image_files::grey_or_colour",
        "data/test_image_files::a_named_dataset",
        "data/test_image_files::what_is_transparent",
        "data/test_image_files::images_are_upright",
        "data/test_image_files::a_damaged_exif",
        "data/test_image_files::the_first_of_several",
    ],
    "large JPEG photos": ["data/test_image_files::a_large_jpeg"],
    "a part of a streamed": [("data/test_folders::a_part_is_kept", 2)],
    "sizes": [
        "data/test_image_files::the_median",
        "data/test_image_files::large_images",
        ("data/test_image_files::long_images", 2),
        "data/test_image_files::an_image_beyond",
    ],
    "arrays and lists": [
        "data/test_arrays::arrays_of_every_layout",
        "data/test_arrays::values_of_every_kind",
        "data/test_arrays::booleans",
        ("data/test_arrays::four_channels", 2),
        ("data/test_arrays::grey_or_colour", 2),
        "data/test_arrays::a_list_of",
        "data/test_arrays::labels_of_every_kind",
        "data/test_arrays::a_missing_label",
        "data/test_arrays::labels_that_leave",
    ],
    "arrays of wrong shapes": [
        "data/test_arrays::arrays_that_make_no_sense",
        "data/test_arrays::what_is_no_array",
        "data/test_images::images_that_make_no_sense",
        "train/test_faults::labels_out_of_range",
        "train/test_faults::images_with_nan",
        "test_config::one_image",
    ],
    "datasets of torch": [
        "data/test_map_style::tensors",
        ("data/test_map_style::torchvisions_image_folder", 2),
        ("data/test_map_style::torchvisions_own", 2),
        ("data/test_map_style::rows_as", 4),
        ("data/test_map_style::a_list_of_pairs", 4),
    ],
    "loaders": [
        "data/test_map_style::what_is_no_such",
        "data/test_map_style::random_augmentation",
        ("data/test_map_style::rows_of_which_several", 3),
        "data/test_map_style::values_that_change",
    ],
    "one class": ["train/test_faults::one_class"],
    "labels missing": [
        "evaluate/test_labels::test_images_without",
        "evaluate/test_labels::training_images_without",
        "evaluate/test_labels::a_test_class",
        ("evaluate/test_labels::where_nothing", 3),
    ],
    "labels from 1": [
        "evaluate/test_labels::classes_are_counted",
        ("evaluate/test_labels::a_fraction_takes", 2),
        "evaluate/test_labels::every_prefix",
        "evaluate/test_labels::a_small_class",
        "evaluate/test_labels::a_number_that_is_no_budget",
    ],
    "encoders that can't be": [
        "models/test_custom::what_can_not_be_trained",
        "models/test_custom::a_function_that_holds",
        "models/test_custom::what_is_no_module",
        "models/test_custom::the_remedy_is_one",
        ("train/test_finetuning::a_class_or_a_function", 2),
    ],
    "frozen encoders": [
        "train/test_finetuning::a_frozen_encoder",
        "train/test_finetuning::the_trained_part",
        ("train/test_finetuning::an_encoder_with_a_learning", 2),
        "models/test_custom::frozen_parts",
        "models/test_custom::a_frozen_batchnorm",
    ],
    "constant images": [
        "train/test_faults::images_without_content",
        "train/test_failures::constant_images",
    ],
    "a batch larger": ["train/test_failures::a_batch_larger"],
    "the same with `accumulate`": [
        "train/test_finetuning::a_batch_cut_to",
        "train/test_finetuning::too_few_images",
    ],
    "a batch that can't be cut": [
        ("train/test_distributed::a_batch_that_can_not", 2),
        "train/test_finetuning::a_batch_that_fits",
    ],
    "loss, gradients or weights": [
        "train/test_failures::a_loss_that",
        "train/test_failures::weights_that_break",
        "train/test_failures::a_gradient_that",
    ],
    "invalid arguments": ["test_cli::arguments_that_can_not"],
    "features that are NaN": [("train/test_faults::weights_that_are_nan", 2)],
    "parameters of another type": ["test_config::a_value_of_another_type"],
}
# rows whose numbers say how often a process is killed, or how large a folder is
COUNTED_BY_HAND = (
    "a run killed by",
    "two processes, at random",
    "one of two, and of three",
    "a folder of 9,000",
    "200 photos",
)


def rows() -> list[tuple[str, str, str]]:
    """Of each row of the page the fault, how many cases it says, and the tests that it names."""
    faults = []
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and len(cells) == 4 and cells[1][0] not in "t-":
            faults.append((cells[0], cells[1], cells[3]))
    return faults


def row_of(start: str) -> tuple[str, str, str]:
    (row,) = [row for row in rows() if row[0].startswith(start)]
    return row


@pytest.fixture(scope="module")
def collected(collected_tests) -> Counter[str]:
    """The number of sets of parameters of each test, by FILE::TEST."""
    names = {name_of(case).partition("::")[0] for cases in CASES.values() for case in cases}
    files = {f"tests/{name}.py" for name in names}
    nodes = collected_tests
    if not files <= {node.partition("::")[0] for node in nodes}:  # not all were asked for
        nodes = collect(files)
    return Counter(
        node.removeprefix("tests/").partition("[")[0].replace(".py::test_", "::", 1)
        for node in nodes
    )


def collect(files: set[str]) -> list[str]:
    """The nodes of all tests in some files, by a pytest of its own."""
    command = [sys.executable, "-m", "pytest", "--collect-only", "-q", "-o", "addopts="]
    done = subprocess.run(
        [*command, "-p", "no:nbval", *sorted(files)], cwd=ROOT, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return [line for line in done.stdout.splitlines() if "::" in line]


def name_of(case: str | tuple[str, int]) -> str:
    return case if isinstance(case, str) else case[0]


@pytest.mark.long
@pytest.mark.parametrize("start", CASES)
def test_a_row_says_as_many_cases_as_its_tests_have(start, collected):
    number, files = 0, set()
    for case in CASES[start]:
        name, times = (case, 1) if isinstance(case, str) else case
        sets = sum(count for test, count in collected.items() if test.startswith(name))
        assert sets, f"there is no test {name}"
        number += times * sets
        files.add(name.partition("::")[0].rpartition("/")[2])
    _, said, named = row_of(start)
    assert said == str(number) or said == f"{number} fields"
    assert set(named.split(", ")) == files


def test_every_row_is_counted():
    starts = [*CASES, *COUNTED_BY_HAND]
    for fault, _, _ in rows():
        assert sum(fault.startswith(start) for start in starts) == 1, fault


def test_every_test_file_that_the_page_names_exists():
    for fault, _, named in rows():
        for name in named.split(", "):
            assert re.fullmatch(r"test_\w+", name) and list(ROOT.glob(f"tests/**/{name}.py")), fault
