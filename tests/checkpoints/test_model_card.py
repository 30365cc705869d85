"""The model card: valid metadata for the hub, results that can be put in again, lineage intact."""

from __future__ import annotations

from pathlib import Path

import pytest
from huggingface_hub import ModelCard
from huggingface_hub.repocard_data import model_index_to_eval_results

from bequest.checkpoints.lineage import read_lineage, write_lineage
from bequest.checkpoints.lineage_check import verify_outputs
from bequest.checkpoints.model_card import add_results, write_model_card
from bequest.errors import InputError
from bequest.reporting.card import card_markdown, results_of
from bequest.reporting.runs import read_runs
from reporting.samples import HOSTILE, every_kind, write_run

METRIC = {"task": "text-generation", "dataset": "Social IQa", "metric": "acc", "value": 0.385}


def make_card(folder: Path, *, earlier: str = "", repo_id: str | None = "org/big") -> Path:
    source, out = folder / "source", folder / "out"
    source.mkdir()
    out.mkdir()
    if earlier:
        (source / "README.md").write_text(earlier)
    write_model_card(out, title="out", source=source, repo_id=repo_id, paragraphs=["Made so."])
    write_lineage(
        out, operation="x", settings={}, inputs=[], outputs=[out / "README.md"], full_hash=False
    )
    return out


def test_the_hub_s_metadata(tmp_path: Path) -> None:
    out = make_card(tmp_path, earlier="---\nlicense: mit\nlanguage: [en]\n---\n# Big\n")
    data = ModelCard.load(out / "README.md").data.to_dict()
    assert data["base_model"] == "org/big" and data["base_model_relation"] == "finetune"
    assert data["license"] == "mit" and data["library_name"] == "transformers"


def test_a_base_known_from_the_source_keeps_its_relation(tmp_path: Path) -> None:
    earlier = "---\nbase_model: org/older\nbase_model_relation: adapter\n---\n"
    data = ModelCard.load(make_card(tmp_path, earlier=earlier, repo_id=None) / "README.md").data
    assert data.base_model == "org/older" and data.to_dict()["base_model_relation"] == "adapter"


def test_results_are_added_and_replaced(tmp_path: Path) -> None:
    out = make_card(tmp_path)
    before = (out / "README.md").read_text()
    add_results(out, markdown="first results", metrics=[], name="out")
    add_results(out, markdown="second results", metrics=[METRIC], name="out")
    text = (out / "README.md").read_text()
    assert "first results" not in text and text.count("second results") == 1
    assert "Made so." in text and text.index("second") < text.index("<!-- bequest:end -->")
    card = ModelCard.load(out / "README.md")
    name, (result,) = model_index_to_eval_results(card.data.to_dict()["model-index"])
    assert (name, result.metric_value, result.dataset_name) == ("out", 0.385, "Social IQa")
    assert (result.task_type, result.metric_type) == ("text-generation", "acc")
    assert card.data.to_dict()["base_model"] == ModelCard(before).data.to_dict()["base_model"]
    assert all(one.intact for one in verify_outputs(out, read_lineage(out), full_hash=False))


def test_a_card_without_our_part_is_added_to(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# Mine\n\nText.\n")
    add_results(tmp_path, markdown="results", metrics=[METRIC], name="m")
    text = (tmp_path / "README.md").read_text()
    assert "# Mine\n\nText.\n" in text and "results" in text
    assert ModelCard(text).data.to_dict()["model-index"][0]["name"] == "m"


@pytest.mark.parametrize("text", ["---\n: [\n---\n", "---\n- a\n---\n"])
def test_metadata_that_cannot_be_read_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "README.md").write_text(text)
    with pytest.raises(InputError, match="the metadata of"):
        add_results(tmp_path, markdown="results", metrics=[], name="m")
    assert (tmp_path / "README.md").read_text() == text


def test_a_folder_without_a_card_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no README\.md"):
        add_results(tmp_path, markdown="results", metrics=[], name="m")


def test_the_card_s_numbers_are_the_report_s(tmp_path: Path) -> None:
    runs = read_runs([write_run(tmp_path / "run", every_kind(), "bequest evaluate a b")])
    markdown = card_markdown(runs)
    assert r"| social\_iqa | acc | 0.360 | 0.385 | no |" in markdown
    assert "Found by `bequest evaluate a b`." in markdown
    _, (metric,) = results_of(runs, folder=tmp_path / "run", identity=None)
    assert metric["value"] == 0.385


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_hostile_results_stay_text(tmp_path: Path, text: str) -> None:
    from markdown_it import MarkdownIt

    out = make_card(tmp_path)
    runs = read_runs([write_run(tmp_path / "run", every_kind(named=text), text)])
    for _ in range(2):
        _, metrics = results_of(runs, folder=tmp_path / "run", identity=None)
        add_results(out, markdown=card_markdown(runs), metrics=metrics, name="out")
    card = (out / "README.md").read_text(encoding="utf-8")
    assert card.count("<!-- bequest:results:end -->") == 1
    (result,) = ModelCard(card).data.to_dict()["model-index"][0]["results"]
    assert result["metrics"][0]["value"] == 0.385
    body = card.split("---\n", 2)[2].replace("<!--", "").replace("-->", "")
    html = MarkdownIt("commonmark", {"html": True}).enable("table").render(body)
    for tag in ("<script", "<img", "<svg", "<a ", "<em>", "</title", "</style"):
        assert tag not in html, tag
    assert html.count("<table>") == 1
