"""The public names and where they live: for type checkers, and read by __init__.py, so that there is one list."""

from kdaug.dataset import Dataset as Dataset
from kdaug.engine import Stage as Stage
from kdaug.errors import ConfigError as ConfigError
from kdaug.errors import KdaugError as KdaugError
from kdaug.errors import ParseError as ParseError
from kdaug.errors import TeacherError as TeacherError
from kdaug.gate import Gate as Gate
from kdaug.gate import Prepared as Prepared
from kdaug.gates.dedup import Dedup as Dedup
from kdaug.gates.heuristics import Heuristics as Heuristics
from kdaug.gates.instructions import InstructionFilters as InstructionFilters
from kdaug.gates.judge import Judge as Judge
from kdaug.gates.rouge import Rouge as Rouge
from kdaug.generator import Generate as Generate
from kdaug.generator import Generator as Generator
from kdaug.generators.evol_instruct import EvolInstruct as EvolInstruct
from kdaug.generators.feedback import Feedback as Feedback
from kdaug.generators.instances import Instances as Instances
from kdaug.generators.pass_through import Pass as Pass
from kdaug.generators.respond import Respond as Respond
from kdaug.generators.self_instruct import SelfInstruct as SelfInstruct
from kdaug.generators.self_knowledge import SelfKnowledge as SelfKnowledge
from kdaug.prompts import render as render
from kdaug.read import read as read
from kdaug.recipe import Recipe as Recipe
from kdaug.record import Discarded as Discarded
from kdaug.record import Drop as Drop
from kdaug.record import Message as Message
from kdaug.record import Record as Record
from kdaug.record import assistant as assistant
from kdaug.record import system as system
from kdaug.record import user as user
from kdaug.runnable import as_runnable as as_runnable
from kdaug.running import arun as arun
from kdaug.running import run as run
from kdaug.source import Each as Each
from kdaug.source import GrowingPool as GrowingPool
from kdaug.teacher import Completion as Completion
from kdaug.teacher import Request as Request
from kdaug.teacher import Sampling as Sampling
from kdaug.teacher import Teacher as Teacher
from kdaug.teachers.fake import Fake as Fake
from kdaug.teachers.langchain import LangChain as LangChain
from kdaug.teachers.local import Local as Local
from kdaug.teachers.openai import OpenAI as OpenAI
from kdaug.teachers.replay import Replay as Replay
from kdaug.teachers.retry import Retry as Retry
from kdaug.teachers.vllm import VLLM as VLLM
from kdaug.train.evaluate import evaluate as evaluate
from kdaug.train.preference import DPO as DPO
from kdaug.train.prune import prune as prune
from kdaug.train.sft import SFT as SFT

__version__: str
__all__: list[str]
