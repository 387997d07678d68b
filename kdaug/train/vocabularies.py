"""How the tokens of a student compare with a teacher's, and so which losses there are between the two."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Vocabularies:
    """How a student's tokens compare with a teacher's: tokens, rows of the head, and tokens with one id in both."""

    student: int
    teacher: int
    student_rows: int
    teacher_rows: int
    shared: int

    @property
    def same(self) -> bool:
        return self.shared == self.student == self.teacher

    @property
    def says(self) -> str:
        """One line: whether they are equal, and which losses that allows."""
        if not self.same:
            return (
                f"vocabulary: different ({self.student:,} tokens and the teacher's {self.teacher:,}, {self.shared:,} "
                "with one id in both): only losses across tokenizers, or training on the teacher's text"
            )
        if self.student_rows == self.teacher_rows:
            return f"vocabulary: equal ({self.student:,} tokens): every loss applies"
        return (
            f"vocabulary: equal ({self.student:,} tokens), in heads of {self.student_rows:,} and {self.teacher_rows:,} "
            "rows: every loss applies, the rows beyond the tokens are left out"
        )


def compare_vocabularies(student: Path, teacher: Path) -> Vocabularies:
    """Of two models' folders; their weights are not read."""
    from transformers import AutoConfig, AutoTokenizer

    ours, theirs = (AutoTokenizer.from_pretrained(folder).get_vocab() for folder in (student, teacher))
    shapes = [AutoConfig.from_pretrained(folder).get_text_config() for folder in (student, teacher)]
    shared = len(ours.items() & theirs.items())
    return Vocabularies(len(ours), len(theirs), shapes[0].vocab_size, shapes[1].vocab_size, shared)
