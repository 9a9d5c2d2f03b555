from collections.abc import Iterator
from typing import Any, get_args

import pytest
from pydantic import BaseModel

from train_jobs.spec import PeftSpec, TrainSpec, WorkersSpec
from train_jobs.spec_keys import DECIDING, FREE, SLOTS, deciding


def keys(model: type[BaseModel], prefix: str = "") -> Iterator[str]:
    """Every key that holds a value, by its dotted name."""
    for name, field in model.model_fields.items():
        part = submodel(field.annotation)
        if part is None:
            yield prefix + name
        else:
            yield from keys(part, f"{prefix}{name}.")


def submodel(annotation: Any) -> type[BaseModel] | None:
    for kind in (annotation, *get_args(annotation)):
        if isinstance(kind, type) and issubclass(kind, BaseModel):
            return kind
    return None


def test_each_key_is_in_exactly_one_of_the_sets():
    sides = [*DECIDING, *SLOTS, *FREE]
    assert sorted(sides) == sorted(keys(TrainSpec))


def test_the_digest_is_of_what_is_computed(spec):
    elsewhere = spec.data.model_copy(update={"train": "/other/home/questions.jsonl"})
    same = {"run": "run-2", "data": elsewhere, "standby": 2, "save_steps": 7, "logging_steps": 9}
    assert spec.model_copy(update=same).sha256 == spec.sha256
    assert spec.model_copy(update={"seed": 1}).sha256 != spec.sha256


@pytest.mark.parametrize(("most", "is_same"), [(2, True), (3, False)])
def test_slots_count_however_they_are_given(spec, most, is_same):
    elastic = spec.model_copy(update={"num_workers": 1, "workers": WorkersSpec(min=1, max=most)})
    assert (deciding(elastic) == deciding(spec)) is is_same


def test_a_part_that_is_left_out_differs_from_its_defaults(spec):
    none = spec.model_copy(update={"peft": None})
    assert deciding(none)["peft.r"] is None
    assert none.sha256 != spec.model_copy(update={"peft": PeftSpec()}).sha256
