"""Ugly replies of small models are dropped for the right reason; good texts of every shape pass."""

from __future__ import annotations

from typing import Any

import pytest
from deciding import decisions

from kdaug.errors import ConfigError
from kdaug.gate import Prepared
from kdaug.gates.heuristics import Heuristics
from kdaug.gates.languages import LANGUAGES, foreign_to
from kdaug.record import Drop, Message, Record, ToolCall, assistant, user


def reason(answer: str, prompt: str = "Tell me something.", **fields: Any) -> str | None:
    drop = judged(Record(prompt=user(prompt), completion=assistant(answer)), **fields)
    return drop.reason.removeprefix("heuristics:") if drop else None


def judged(record: Record, **fields: Any) -> Drop | None:
    (drop,) = decisions(Heuristics(**fields).start([]), [record])
    return drop


LOOPS = {
    "one word": "The sea is " + "the " * 60,
    "one sentence": "I think that the best way to learn is to practise every day. " * 10,
    "one sentence three times, short": "The quick brown fox jumps over the lazy old dog. " * 3,
    "numbered": "\n".join(f"{i}. Be kind to the people who live around you." for i in range(1, 16)),
    "begins well": "Here are three tips for a good night. Sleep early and drink water. "
    + "I am not sure what you mean. " * 20,
    "two in turn": "Yes, I would like that very much. What do you mean by that, my friend? " * 8,
    "marks": "Sure" + "!" * 300,
    "letters": "Aaah" + "h" * 200,
    "laughter": "ha" * 150,
    "Chinese": "我不知道该怎么办。" * 12,
    # SmolLM2-135M-Instruct, greedy: the sea, 30 animals, the planets' moons, "good morning" in Japanese, a file
    "real: poem": "In the depths of the ocean, where shadows play,\nAbe a sea of dreams,\n"
    + "The ocean's a place of endless wonder,\nAbe a sea of dreams,\nAbe a sea of dreams,\nAbe a sea of dreams,\n\n"
    * 4,
    "real: list": "\n".join(f"{i}. Blue-Eyed Bluefin-Boreas (Bluefin-Boreas)" for i in (1, 2, 3)),
    "real: table": "| Planet | Moon |\n| --- | --- |\n"
    + "| Earth | Luna |\n| Mars | Phobos |\n| Jupiter | Io |\n| Saturn | Titan |\n| Uranus | Neptune |\n" * 4,
    "real: Japanese": "わらくないですが" + "どうですが" * 20,
    "real: zeros": "The file contains a list of 1" + "0" * 130,
    "code": "def f(x):\n" + "    if x == 1:\n        return x + 1\n" * 20,
}


@pytest.mark.parametrize("text", LOOPS.values(), ids=LOOPS)
def test_a_loop_is_repetition(text: str) -> None:
    assert reason(text) == "repetition"
    assert reason(text, max_repetition=None) is None


REFUSALS = [
    "I'm sorry, but I can't assist with that.",
    "I’m sorry, but I cannot fulfill this request. It would be against the law.",
    "Sorry, I cannot.",
    "As an AI language model I cannot have opinions.",
    "As an AI language model, I don't have personal opinions or beliefs.",
    "As a large language model trained by OpenAI, I am not able to browse the internet.",
    "As an AI assistant, I'm not able to predict the weather.",
    "I am an AI and I can't open files.",
    "I cannot provide instructions for building weapons.",
    "I can't help you with that request.",
    "Unfortunately, I am unable to assist you with this.",
    "I apologize, but I am not able to generate that content.",
    "I do not have access to real-time information.",
    "It is not appropriate for me to discuss that.",
    "Es tut mir leid, aber dabei kann ich dir nicht helfen.",
    "Lo siento, pero no puedo ayudarte con eso.",
    "Je suis désolé, mais je ne peux pas répondre à cette question.",
    "抱歉，我无法回答这个问题。",
    "申し訳ありませんが、その質問にはお答えできません。",
]


@pytest.mark.parametrize("text", REFUSALS)
def test_a_refusal_is_dropped(text: str) -> None:
    assert reason(text) == "refusal"
    assert reason(text, refusals=False) is None


@pytest.mark.parametrize(
    "text",
    [
        "I am sorry for the late reply to your letter. I hope that you are well.",
        "I'm sorry, but I can't find any mistakes in your sentence: it is correct.",
        "As an AI engineer, I do not write front-end code.",
        "Unfortunately, I can't come to the party on Friday.",
        "Sorry seems to be the hardest word.",
        "He said that he cannot help falling in love.",
        "Penguins cannot fly, but they are able to swim.",
    ],
)
def test_an_apology_or_a_cannot_is_no_refusal(text: str) -> None:
    assert reason(text) is None


def test_a_refusal_is_looked_for_in_the_answer_only_and_only_in_a_short_one() -> None:
    words = "I'm sorry, but I can't help with that."
    assert judged(Record(prompt=user(words))) is None
    assert reason("Oslo is the capital of Norway.", prompt=words) is None
    number = len(words.split())
    assert reason(" ".join([words, *(f"w{i}" for i in range(79 - number))])) == "refusal"
    assert reason(" ".join([words, *(f"w{i}" for i in range(80 - number))])) is None


def test_a_drop_carries_its_evidence() -> None:
    drop = judged(Record(prompt=user("Hi"), completion=assistant("Sorry, I cannot.")))
    assert drop == Drop("heuristics:refusal", {"phrase": "Sorry, I cannot.", "words": 3})
    loop = judged(Record(prompt=user("Hi"), completion=assistant("no way " * 40)))
    assert loop is not None and loop.detail == {"share": 0.975, "phrase": "no way no way no way no way"}
    short = judged(Record(prompt=user("Hi"), completion=assistant("Hello there")), min_words=4)
    assert short == Drop("heuristics:too_short", {"words": 2, "min_words": 4})


PLACEHOLDERS = [
    "Dear [Landlord's Name],\nThe tap leaks.\nYours, [Your name]",
    "Dear [Landlord's Name],\n\nI hope this message finds you well.",  # SmolLM2-135M-Instruct
    "Best regards,\n[Name]",
    "Summarise this article: <insert article here>",
    "[Insert a paragraph about the company]",
    "Lorem ipsum dolor sit amet, consectetur adipiscing elit.",
    "def solve(n):\n    # TODO: implement\n    pass",
    "def solve(n):\n    # Your code here\n    return None",
    "TODO: write the second paragraph",
]


@pytest.mark.parametrize("text", PLACEHOLDERS)
def test_a_gap_to_fill_in_is_a_placeholder(text: str) -> None:
    assert reason(text) == "placeholder"
    assert reason(text, placeholders=False) is None
    drop = judged(Record(prompt=user(text)))
    assert drop is not None and drop.reason == "heuristics:placeholder"


@pytest.mark.parametrize(
    ("text", "prompt"),
    [
        ("See [your profile](https://example.org/me) for more.", "Where is it?"),
        ("users[name] = ages[date]", "Fix this line."),
        ("<address>Main Street</address>", "Write HTML."),
        ("My to-do list: milk, bread. Todo apps are popular.", "What are you doing?"),
        ("Dear [Name], welcome!", "Write an e-mail template for new customers."),
        ("Replace [Name] by Ann.", "What should I do with [name] in my letter?"),
    ],
)
def test_what_only_looks_like_a_placeholder_passes(text: str, prompt: str) -> None:
    assert reason(text, prompt) is None


GOOD = {
    "one word": "Paris.",
    "a number": "391",
    "a large number": "100000000000000000000",
    "a sign": "😀",
    "Chinese": "光合作用是植物把光能转化为化学能的过程。",
    "pattern": "0 1 0 1 0 1 0 1 0 1",
    "table": "| Planet | Moons |\n|---|---|\n"
    + "\n".join(f"| {p} | {n} |" for p, n in zip("ABCDEFGH", range(8), strict=True)),
    "ruled table": "Name     Age\n" + "-" * 60 + "\n" + "\n".join(f"Person {i}   {20 + i}" for i in range(12)),
    "list of like sentences": "\n".join(
        f"{i}. {c} is the capital of {n}."
        for i, (c, n) in enumerate(
            [("Oslo", "Norway"), ("Rome", "Italy"), ("Bern", "Switzerland"), ("Paris", "France")]
        )
    ),
    "refrain": """Row on, row on, the river is wide,
The boat is small and the moon is our guide.

My father was a ferryman and so was his son,
He carried the travellers one by one.

Row on, row on, the river is wide,
The boat is small and the moon is our guide.

My mother sold apples beside the old bridge,
And watched the sun setting behind the far ridge.

Row on, row on, the river is wide,
The boat is small and the moon is our guide.""",
    "code": """class Stack:
    def __init__(self):
        self.items = []

    def push(self, item):
        self.items.append(item)

    def pop(self):
        if not self.items:
            raise IndexError("pop from an empty stack")
        return self.items.pop()

    def peek(self):
        if not self.items:
            raise IndexError("peek at an empty stack")
        return self.items[-1]
""",
    "JSON": '[{"name": "Ann", "age": 31, "city": "Oslo"}, {"name": "Bo", "age": 25, "city": "Rome"},'
    ' {"name": "Cy", "age": 47, "city": "Bern"}, {"name": "Di", "age": 19, "city": "Kyiv"}]',
    "SQL": "SELECT name, COUNT(*) FROM orders GROUP BY name HAVING COUNT(*) > 5 ORDER BY COUNT(*) DESC;",
}


@pytest.mark.parametrize("text", GOOD.values(), ids=GOOD)
def test_good_texts_pass(text: str) -> None:
    assert reason(text) is None
    assert judged(Record(prompt=user(text))) is None


def test_length_is_counted_in_words_of_any_script_and_the_ends_are_kept() -> None:
    for text, length in [("one two three four", 4), ("I don't know, really", 4), ("你好世界", 4)]:
        assert reason(text, min_words=length, max_words=length) is None
        assert reason(text, min_words=length + 1) == "too_short"
        assert reason(text, max_words=length - 1) == "too_long"


def test_an_empty_answer_is_dropped_but_not_one_that_calls_a_tool() -> None:
    assert reason(" \n\t") == "empty"
    call = Message("assistant", "", tool_calls=(ToolCall("1", "search", "{}"),))
    assert judged(Record(prompt=user("Search for it."), completion=(call,))) is None


def test_of_a_dialogue_only_the_assistants_words_count() -> None:
    turns = (*assistant("Of course."), Message("user", "no " * 90), *assistant("Then let us try another way."))
    assert judged(Record(prompt=user("Help me."), completion=turns)) is None


TEXTS = {
    "en": "Photosynthesis is the process by which plants turn light into chemical energy. It takes place in the"
    " leaves, where water and carbon dioxide are used to make sugar.",
    "de": "Die Photosynthese ist der Vorgang, mit dem Pflanzen Licht in chemische Energie umwandeln. Sie findet"
    " in den Blättern statt, wo aus Wasser und Kohlendioxid Zucker wird.",
    "fr": "La photosynthèse est le processus par lequel les plantes transforment la lumière en énergie "
    "chimique. Elle a lieu dans les feuilles, où l'eau et le dioxyde de carbone servent à fabriquer du "
    "sucre.",
    "es": "La fotosíntesis es el proceso por el cual las plantas convierten la luz en energía química. Tiene "
    "lugar en las hojas, donde el agua y el dióxido de carbono se usan para producir azúcar.",
    "it": "La fotosintesi è il processo con cui le piante trasformano la luce in energia chimica. Avviene nelle"
    " foglie, dove l'acqua e l'anidride carbonica vengono usate per produrre zucchero, che non è poco.",
    "pt": "A fotossíntese é o processo pelo qual as plantas transformam a luz em energia química. Ocorre nas "
    "folhas, onde a água e o dióxido de carbono são usados para produzir açúcar.",
    "nl": "Fotosynthese is het proces waarbij planten licht omzetten in chemische energie. Het vindt plaats in "
    "de bladeren, waar water en kooldioxide worden gebruikt om suiker te maken.",
    "sv": "Fotosyntes är den process där växter omvandlar ljus till kemisk energi. Den sker i bladen, där "
    "vatten och koldioxid används för att bilda socker, och syre frigörs.",
    "pl": "Fotosynteza to proces, w którym rośliny przekształcają światło w energię chemiczną. Zachodzi ona w "
    "liściach, gdzie woda i dwutlenek węgla są wykorzystywane, a tlen, który jest uwalniany, nie jest dla"
    " nich potrzebny.",
    "tr": "Fotosentez, bitkilerin ışığı kimyasal enerjiye dönüştürdüğü bir süreçtir. Yapraklarda gerçekleşir; "
    "su ve karbondioksit şeker yapmak için kullanılır ve oksijen bir yan ürün olarak açığa çıkar, bu da "
    "çok önemlidir.",
    "id": "Fotosintesis adalah proses yang digunakan tumbuhan untuk mengubah cahaya menjadi energi kimia. "
    "Proses ini terjadi di daun, tempat air dan karbon dioksida digunakan untuk membuat gula.",
    "vi": "Quang hợp là quá trình mà thực vật chuyển hóa ánh sáng thành năng lượng hóa học. Quá trình này diễn "
    "ra trong lá, nơi nước và khí cacbonic được dùng để tạo ra đường.",
    "ru": "Фотосинтез — это процесс, при котором растения превращают свет в химическую энергию.",
    "el": "Η φωτοσύνθεση είναι η διαδικασία με την οποία τα φυτά μετατρέπουν το φως σε ενέργεια.",
    "ar": "التمثيل الضوئي هو العملية التي تحول بها النباتات الضوء إلى طاقة كيميائية.",
    "he": "פוטוסינתזה היא התהליך שבו צמחים הופכים אור לאנרגיה.",
    "hi": "प्रकाश संश्लेषण वह प्रक्रिया है जिससे पौधे प्रकाश को ऊर्जा में बदलते हैं।",
    "th": "การสังเคราะห์ด้วยแสงเป็นกระบวนการที่พืชเปลี่ยนแสงเป็นพลังงาน",
    "ko": "광합성은 식물이 빛을 화학 에너지로 바꾸는 과정입니다.",
    "ja": "光合成は、植物が光を化学エネルギーに変える過程です。",
    "zh": "光合作用是植物把光能转化为化学能的过程，主要在叶片中进行。",
}


@pytest.mark.parametrize("asked", TEXTS)
def test_each_language_is_told_from_the_others(asked: str) -> None:
    assert [written for written, text in TEXTS.items() if foreign_to(asked, text) is None] == [asked]


def test_the_language_of_the_answer_counts_and_is_named() -> None:
    record = Record(prompt=user(TEXTS["en"]), completion=assistant(TEXTS["es"]))
    assert judged(record) is None
    drop = judged(record, language="en")
    assert drop == Drop("heuristics:language", {"expected": "en", "found": "small words of es"})
    drop = judged(Record(prompt=user(TEXTS["zh"])), language="en")
    assert drop == Drop("heuristics:language", {"expected": "en", "found": "100 % Han letters"})


@pytest.mark.parametrize("language", ["en", "zh", "ru"])
def test_code_numbers_and_signs_have_no_language(language: str) -> None:
    for text in ("42", "😀!", "```python\nfor i in range(3):\n    print(i)\n```"):
        assert reason(text, language=language) is None


@pytest.mark.parametrize("name", ["one word", "list of like sentences", "refrain", "code", "JSON", "SQL", "table"])
def test_good_english_and_bare_code_pass_as_english(name: str) -> None:
    assert reason(GOOD[name], language="en") is None


def test_a_japanese_or_chinese_text_with_foreign_names_keeps_its_language() -> None:
    assert reason("我们用 TensorFlow 和 PyTorch 来训练这个模型。", language="zh") is None
    assert reason("東京", language="ja") is None


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"language": "klingon"}, "language must be one of en, de"),
        ({"max_repetition": 60}, "max_repetition"),
        ({"min_words": 9, "max_words": 3}, "min_words 9"),
    ],
)
def test_a_wrong_field_is_named(fields: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=f"heuristics: {named}"):
        Heuristics(**fields)


def test_the_lists_of_small_words_hold_what_their_language_needs() -> None:
    latin = [known for known in LANGUAGES.values() if known.script == "Latin"]
    assert len(latin) == 12 and all(len(known.small_words) >= 18 for known in latin)


@pytest.mark.parametrize(
    ("answer", "unfinished"), [("Here are three:", True), ("**Steps:**", True), ("At 10:30.", False)]
)
def test_an_answer_that_only_announces_is_unfinished(answer: str, unfinished: bool) -> None:
    record = Record(prompt=user("Name three rivers."), completion=assistant(answer))
    gate = Heuristics()
    drop = gate.decide(Prepared(record))
    assert (drop is not None and drop.reason == "heuristics:unfinished") is unfinished
    assert Heuristics(unfinished=False).decide(Prepared(record)) is None
    assert gate.decide(Prepared(Record(prompt=user("Name them:")))) is None
