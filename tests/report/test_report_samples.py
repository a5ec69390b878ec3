"""What is drawn of a sample is what the judged model computes; nothing is drawn of another model or other images."""

import math
import shutil

import pytest
import torch

import robustdeq as rd
from robustdeq.analysis import entropy_along, probabilities_along
from robustdeq.evaluation import Evaluation
from robustdeq.report.kept import Kept, Missing
from robustdeq.report.runs import Assessed, read_runs
from robustdeq.report.samples import group_analysis, samples

SILENT = lambda *_: None  # noqa: E731


@pytest.fixture(scope="module")
def shown(whole):
    (run,) = read_runs([whole])
    gallery, missing, found = samples(run.evaluations, Kept.beside([run], [], None), 8, SILENT)
    assert missing == []
    return gallery, found


def test_probabilities_entropy_and_distance_are_those_of_the_kept_images(whole, digits, shown):
    (group, _), found = shown[0]["groups"], shown[1]
    model, kept = rd.load_model(whole / "model"), Evaluation.read(whole / "bare").images
    assert found["mine/bare"].place == str(whole / "model") and found["mine/bare"].source == "digits"
    for entry in group["samples"]:
        row = entry["sample"]
        x = digits.images(slice(row, row + 1))
        pair = (x, kept[entry["attack"]][row : row + 1]) if entry["attack"] else (x,)
        for at, image in enumerate(pair):
            wanted = probabilities_along(model, image)[:, 0, entry["order"]]
            assert torch.allclose(torch.tensor(entry["probabilities"][at]), wanted, atol=1e-4)
            assert entry["entropies"][at] == pytest.approx(entropy_along(model, image)[:, 0].tolist(), abs=1e-4)
        if entry["attack"]:
            states = [model.trajectory(image).states for image in pair]
            apart = [float((b - a).norm() / a.norm()) for a, b in zip(*states)]
            assert entry["distance"] == pytest.approx(apart, abs=2e-4)


def test_the_last_state_says_what_the_record_says(shown, whole):
    for group, name in zip(shown[0]["groups"], ("bare", "defended")):
        evaluation = Evaluation.read(whole / name)
        for entry in group["samples"]:
            last = entry["probabilities"][0][-1]
            assert entry["order"][max(range(10), key=last.__getitem__)] == entry["predicted"]
            assert entry["label"] == entry["predicted"] or entry["outcome"] == "wrong"
            broken = any(evaluation.record.attacks[a].outcomes[entry["sample"]] == 0 for a in evaluation.columns)
            assert (entry["outcome"] == "broken") == broken
            if broken:  # by the attack whose image is shown
                attacked = entry["probabilities"][1][-1]
                assert entry["order"][max(range(10), key=attacked.__getitem__)] != entry["label"]


def test_the_reduced_input_stays_in_the_ball_and_only_a_defended_model_has_one(shown):
    bare, defended = shown[0]["groups"]
    assert not any("reduced" in entry for entry in bare["samples"])
    assert all(0 < entry["moved"] <= 0.1501 for entry in defended["samples"])


def test_the_set_is_summed_up_from_its_samples(shown):
    group = shown[0]["groups"][0]
    analysis, attacked = group_analysis(group), [entry for entry in group["samples"] if "distance" in entry]
    assert len(analysis["distance"]) == 4 and len(analysis["distance"][0]) == len(attacked) > 0
    assert analysis["entropy"]["attacked"][2] == [entry["entropies"][1][2] for entry in attacked]
    assert max(max(row) for row in analysis["entropy"]["clean"]) <= math.log(10) + 1e-3


def test_another_model_and_other_images_are_not_taken(whole, tmp_path, digits):
    evaluation = Evaluation.read(whole / "bare")
    rd.save_model(rd.create_model("mdeq-nano", num_classes=10, seed=9, steps=4), tmp_path / "other")
    assessed = Assessed("bare", whole / "bare", evaluation, (tmp_path / "other",))
    kept = Kept([], None, [])
    with pytest.raises(Missing, match="the model that was judged was not found; 1 others were; give --model"):
        kept.model(assessed, digits.images(slice(1)))
    assert Kept([whole / "model"], None, []).model(assessed, digits.images(slice(1)))[1] == str(whole / "model")
    mine = rd.load_model(whole / "model")  # as one that is put together by hand must be given
    assert Kept([mine], None, []).model(assessed, digits.images(slice(1))) == (mine, "")
    assert len(kept.images(assessed)[0]) == 12
    evaluation.record.identity.images = "0" * 64
    with pytest.raises(Missing, match=r"the images that were judged were not found \(those of digits are others\)"):
        kept.images(assessed)


def test_what_was_not_kept_is_said_and_the_rest_is_shown(run):
    for file in (run / "bare" / "images").glob("joint-*"):
        file.write_bytes(b"junk")
    (read,) = read_runs([run / "bare"])
    gallery, missing, _ = samples(read.evaluations, Kept([], None, []), 8, SILENT)
    assert len(missing) == 1 and "joint-0.safetensors cannot be read" in missing[0]
    entries = gallery["groups"][0]["samples"]
    assert len(entries) == 8 and all("original" in entry and "attacked" not in entry for entry in entries)
    assert all(len(entry["probabilities"]) == 1 for entry in entries)
    shutil.rmtree(run / "bare" / "images")
    _, missing, _ = samples(read.evaluations, Kept([], None, []), 8, SILENT)
    assert missing == ["bare: the attacked images are not beside its record."]


def test_without_the_model_the_images_are_shown(run):
    (run / "model" / "model.safetensors").unlink()
    (read,) = read_runs([run / "bare"])
    gallery, missing, found = samples(read.evaluations, Kept([], None, []), 8, SILENT)
    assert missing == ["bare: the model that was judged was not found; give --model with its folder."]
    assert found["bare"].deployed is None
    entries = gallery["groups"][0]["samples"]
    assert all("original" in entry and "probabilities" not in entry for entry in entries)
    assert any("attacked" in entry for entry in entries)
