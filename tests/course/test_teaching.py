"""The teacher's guide in step with the lessons, and lesson 17 with the benchmark that it reports."""

import json
import re
from pathlib import Path

import pytest

from tinyunet.bugs import BUGS
from tinyunet.course import editions
from tinyunet.course.exercise import EXERCISES

REPOSITORY = Path(__file__).parents[2]
GUIDE = (REPOSITORY / "notebooks" / "TEACHING.md").read_text(encoding="utf-8")
LESSONS = {lesson.number: lesson for lesson in editions.lessons()}


def rows(heading):
    """The lines of the first table below a heading, as lists of cells."""
    lines = iter(GUIDE.partition(f"\n## {heading}\n")[2].splitlines())
    table = []
    for line in lines:
        if line.startswith("|"):
            table.append([cell.strip() for cell in line.strip("|").split("|")])
        elif table:
            break
    return table[2:]


def test_six_weeks_have_the_minutes_of_the_lessons():
    """Every lesson once, as long as its source says; room and home add up; each week three hours in the room."""
    weeks = {}
    for week, number, minutes, room, home, *_ in rows("Six weeks"):
        assert int(room) + int(home) == int(minutes), f"lesson {number}: {room} + {home} minutes are not {minutes}"
        assert int(minutes) == LESSONS[number].minutes, f"TEACHING.md: lesson {number} takes {LESSONS[number].minutes}"
        weeks.setdefault(week, []).append((number, int(room)))
    assert [number for lessons in weeks.values() for number, _ in lessons] == [f"{k:02}" for k in range(18)]
    assert list(weeks) == list("123456")
    assert all(sum(room for _, room in lessons) == 180 for lessons in weeks.values())


def test_two_days_fit():
    """Six hours each; no lesson longer than it is in its source; every lesson is there, or named as left for home."""
    days, seen = {}, set()
    for day, number, minutes, _ in rows("Two days"):
        days[day] = days.get(day, 0) + int(minutes)
        seen.add(number)
        assert int(minutes) <= LESSONS[number].minutes, number
    assert days == {"1": 360, "2": 360}
    home = re.search(r"Left for home: ([\d, ]+)\.", GUIDE)[1].split(", ")
    assert sorted([*seen, *home]) == [f"{k:02}" for k in range(18)]


@pytest.mark.parametrize("number", [f"{k:02}" for k in range(18)])
def test_every_lesson_has_its_part(number):
    """Its title, what it needs as its source says, and something to discuss."""
    part = re.search(rf"\n### {number} (.+)\n((?:.+\n)+)", GUIDE)
    assert part, f"TEACHING.md has no part '### {number} ...'"
    needs = re.search(r"\*\*Needs\*\* (.+?)\.", part[2])[1]
    assert "**Leaves**" in part[2]
    assert "**Ask**" in part[2]
    assert part[1] == LESSONS[number].title
    assert tuple(re.findall(r"\b\d\d\b", needs)) == LESSONS[number].prerequisites


def test_exercises_and_bugs_exist():
    """Every `NN.name` is an exercise; every bug of the demos can be planted."""
    import tinyunet.course.exercises  # noqa: F401  enters them all

    named = re.findall(r"`(\d\d)\.(\w+)`", GUIDE)
    assert len(named) > 30
    missing = [f"{number}.{name}" for number, name in named if f"{number}.{name}" not in EXERCISES]
    assert not missing
    bugs = re.findall(r"--plant (\w+)`", GUIDE)
    assert len(bugs) > 6
    assert not [name for name in bugs if name != "NAME" and name not in {bug.name for bug in BUGS.values()}]


def test_links_of_the_guide_resolve():
    """To files of this folder; and the course's first page leads to the guide."""
    for target in re.findall(r"\]\(([^)#\s]+)\)", GUIDE):
        assert (REPOSITORY / "notebooks" / target).exists(), target
    assert "(TEACHING.md)" in (REPOSITORY / "notebooks" / "README.md").read_text(encoding="utf-8")


def test_lesson_17_reports_what_was_measured():
    """Its numbers on real images are those of benchmarks/results/real_data.json."""
    text = "\n".join(c.source for c in LESSONS["17"].source.cells if c.cell_type == "markdown")
    tasks = json.loads((REPOSITORY / "benchmarks" / "results" / "real_data.json").read_text(encoding="utf-8"))["tasks"]
    titles = {"isbi2012": "ISBI 2012", "u373": "PhC-U373", "dsb2018": "DSB 2018 (nuclei; not in the paper)"}
    for task, title in titles.items():
        found = tasks[task]
        train, held_out = found["images"]
        line = (f"| {title} | {train}, {held_out} | {found['plain']['mean_iou']:.3f} | {found['plain']['seg']:.3f} "
                f"| {found['train_seconds'] / 60:.1f} |")  # fmt: skip
        assert line in text
        assert found["spec"]["base"] == 16
    assert f"V_Rand is {tasks['isbi2012']['em']['v_rand'][0]:.3f} at the best threshold" in text
    nuclei = tasks["dsb2018"]
    assert f"reaches {nuclei['best_threshold']:.3f}; the network has {nuclei['train']['mean_iou']:.3f}" in text
