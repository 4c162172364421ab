"""The paper's claims as recorded in files: each sentence, its comparisons, and what its own numbers say of it."""

from collections import Counter
from itertools import pairwise

import yaml

from results.paper.paper_claims import Origin, claims, families, questions
from results.paper.published import PAPER, published


def test_the_rankings_are_the_best_and_second_best_of_the_published_tables() -> None:
    rankings = [claim for claim in claims() if claim.family.source == Origin.colour]
    assert all(claim.published > 0 for claim in rankings)
    claimed = {(claim.table, claim.better, claim.group, claim.metric) for claim in rankings}
    expected = set()
    for table in ("table1", "table2"):
        paper = published(table)
        metrics = {(group.name, printed): ours for group in paper.groups for ours, printed in group.metrics.items()}
        for (method, group, printed), rank in paper.ranks().items():
            assert rank in (1, 2)
            expected.add((table, method, group, metrics[group, printed]))
    assert claimed == expected


def test_each_family_has_its_comparisons() -> None:
    assert Counter(claim.family.id for claim in claims()) == {
        "ours-beats-baseline": 2 * 3 * (3 + 9),  # frameworks, strategies, columns of tables 1 and 2
        "ours-beats-other-masking": 2 * 2 * (3 + 9),
        "high-pass-is-best": 2 * 2 * (3 + 9),
        "query-beats-both": 3,
        "both-beats-key": 3,
        "best-and-second-best": 2 * (6 + 18),
    }
    assert {(claim.better, claim.worse) for claim in claims() if claim.table == "table3"} == {
        pair
        for strategy in ("hp", "blur", "mean")
        for pair in pairwise(f"mocov2+ours-{strategy}{branch}-no-hard-negative" for branch in ("", "@both", "@key"))
    }


def test_every_family_says_where_it_comes_from() -> None:
    for family in families():
        assert family.says
        assert family.reading
        # A quote only if the paper itself says it.
        assert bool(family.quote) == (family.source is Origin.abstract), family.id
    sources = {family.id: family.source for family in families()}
    assert sources["high-pass-is-best"] is Origin.reading
    assert sources["query-beats-both"] is Origin.cell
    assert not next(family for family in families() if family.source is Origin.colour).decided_by_mean


def test_what_the_papers_own_numbers_contradict_is_listed() -> None:
    computed = {
        family.id: {
            (claim.table, claim.group, claim.metric, claim.better, claim.worse, claim.published)
            for claim in claims()
            if claim.family == family and claim.published <= 0
        }
        for family in families()
    }
    content = yaml.safe_load((PAPER / "claims.yaml").read_text(encoding="utf-8"))
    listed = {
        family["id"]: {tuple(entry) for entry in family["contradicted_by_the_paper"]} for family in content["families"]
    }
    assert listed == computed
    assert {family: len(entries) for family, entries in computed.items() if entries} == {
        "ours-beats-baseline": 1,
        "ours-beats-other-masking": 11,
        "high-pass-is-best": 3,
    }
    assert sum(claim.family.source is not Origin.colour for claim in claims()) == 174


def test_high_pass_has_as_many_largest_cells_as_the_file_says() -> None:
    largest = 0
    for table in ("table1", "table2"):
        values = published(table).values
        for framework in ("mocov2", "simclr"):
            for column in dict.fromkeys(key[1:] for key in values):
                cells = {name: values[f"{framework}+ours-{name}", *column] for name in ("hp", "blur", "mean")}
                largest += cells["hp"] == max(cells.values()) and list(cells.values()).count(cells["hp"]) == 1
    (reading,) = (family.reading for family in families() if family.id == "high-pass-is-best")
    assert f"in {largest} of the 24 columns" in reading
    of_table_3 = published("table3").values
    third = {name: of_table_3[f"mocov2+ours-{name}-no-hard-negative", "not_stated_on_poster", ""] for name in cells}
    assert min(third, key=third.__getitem__) == "hp"


def test_claims_that_exclude_each_other_are_one_question() -> None:
    (question,) = (
        question
        for question in questions()
        if (question.claim.group, question.claim.metric) == ("COCO_detection", "bbox_AP")
        and {question.claim.better, question.claim.worse} == {"simclr+adios", "simclr+ours-hp"}
    )
    assert [claim.family.id for claim in question.claims] == ["ours-beats-other-masking", "best-and-second-best"]
    assert question.claim.better == "simclr+ours-hp"
    assert question.claim.published == -0.31
    assert question.others == "best-and-second-best (reversed)"
    keys = [
        (question.claim.table, question.claim.group, question.claim.metric, frozenset((claim.better, claim.worse)))
        for question in questions()
        for claim in question.claims[:1]
    ]
    assert len(keys) == len(set(keys)) == 191
    assert sum(len(question.claims) for question in questions()) == len(claims()) == 222
