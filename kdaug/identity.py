"""Whose a run folder is: one recipe's, with what may change from one part of its run to the next."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from kdaug.errors import ConfigError
from kdaug.journal import Journal
from kdaug.recipe import Recipe, differences
from kdaug.record import Json
from kdaug.seeds import ids_of, packed_of
from kdaug.stage import resolve_windows
from kdaug.teacher import Teacher


@dataclass(frozen=True)
class Identity:
    """What a run is about to be, held against what its folder's journal says of an earlier part. `description`: the
    recipe's, which is costly to make."""

    journal: Journal
    out: Path
    recipe: Recipe
    description: dict[str, Json]
    teachers: Mapping[str, Teacher]
    say: Callable[[str], None]

    def settle(self) -> list[int]:
        """The windows of the stages, which stay what they were, as the draws of a pool depend on them.

        Raises ConfigError where the folder holds another run.
        """
        known = self.journal.meta("recipe")
        if known is None and (self.out / "dataset").exists():
            raise ConfigError(
                f"{self.out} has a dataset, but its journal.sqlite is empty: put the journal back, or choose another "
                "--out (to run it anew here would write over the dataset)"
            )
        changed = [d for d in differences(known or {}, self.description) if not d.startswith("name:")]
        if known is None or (changed and self._is_blank()):
            windows = self._begin()
        elif changed:
            other = "other data" if all(d.startswith("source.holds") for d in changed) else "another recipe"
            raise ConfigError(f"{self.out} holds the run of {other} ({'; '.join(changed[:5])}): choose another --out")
        else:
            windows = list(self.journal.meta("windows"))
            known_jobs = self.journal.committed(len(windows) - 1)
            self.say(f"resuming {self.out}: {known_jobs} jobs of the last stage are known")
        self._settle_options()
        return windows

    def _begin(self) -> list[int]:
        windows = resolve_windows(self.recipe.source, self.recipe.stages, self.teachers, self.recipe.target)
        self.journal.set_meta("windows", list(windows))
        self.journal.set_meta("slots", max((t.concurrency for t in self.teachers.values()), default=1))
        seeds = self.recipe.source.seeds
        self.journal.set_seeds(zip(ids_of(seeds), packed_of(seeds), strict=True))
        self.journal.set_meta("recipe", self.description)
        return windows

    def _is_blank(self) -> bool:
        """Whether nothing was ever sent from this folder."""
        stages = range(len(self.journal.meta("windows")))
        began = any(self.journal.asked(stage) or self.journal.committed(stage) for stage in stages)
        asked = began or self.journal.reservations()
        return not asked and not any(path.is_file() for path in (self.out / "teachers").rglob("*"))

    def _settle_options(self) -> None:
        """What may change from one part of a run to the next; a change that shows in the dataset is said."""
        recipe = self.recipe
        now: dict[str, Json] = {role: teacher.name for role, teacher in self.teachers.items()}
        for role, name in (self.journal.meta("teachers") or {}).items():
            if now.get(role, name) != name and not self._is_blank():
                self.say(f"the {role} was {name}: its replies are kept, new calls go to {now[role]}")
        self.journal.set_meta("teachers", now)
        before = self.journal.meta("options") or {}
        if before.get("holdout", recipe.holdout) != recipe.holdout:
            self.say(f"holdout was {before['holdout']}, is {recipe.holdout} now: the splits are made anew")
        if recipe.target and recipe.target < (before.get("target") or 0):
            self.say(f"target was {before['target']}, is {recipe.target} now: the dataset has the first of them")
        select = recipe.describe_selection()
        if before.get("select") and before["select"] != select:
            other = "; ".join(differences(before["select"], select)[:5])
            self.say(f"another selection ({other}): the dataset is made anew")
        self.journal.set_meta("options", {"holdout": recipe.holdout, "target": recipe.target, "select": select})
