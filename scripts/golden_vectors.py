"""Inputs of make_goldens.py that are not records: texts that try the scorer, score lists with ties, CPython's generator.

Run make_goldens.py; this file only holds what it draws from. Characters are limited to those assigned in Unicode 13.0, the tables of the
Python that made the published numbers.
"""

import platform
import random
import unicodedata

SEEDS = [20240731, 123456789012345678901234567890]

# (response, gold): each line is one rule of the scorer or one trap of re-implementing it.
PAIRS = [
    ("", ""),
    ("", "空"),
    ("空", ""),
    (" ", "空"),
    ("\n\n空", "空"),
    ("空\n\n海", "空"),
    ("空\n \n海", "空"),
    ("空\r\n\r\n海", "空"),
    ("空\n", "空"),
    ("空", "空\n"),
    ("空\n\n", "空\n\n海"),
    ("。", "…"),
    ("。", "空"),
    ("○", "◎"),
    ("「」", "（）"),
    ("ü", "ß"),
    ("ü", "海"),
    ("naïve", "nave"),
    ("Señor", "Seor"),
    ("30°", "30"),
    ("1×2", "12"),
    ("a\u00adb", "ab"),
    ("x·y", "xy"),
    ("ｶﾞｷﾞ", "ガギ"),
    ("か\u3099", "が"),
    ("ﾊﾟﾝ", "パン"),
    ("㌔", "キロ"),
    ("㍿", "株式会社"),
    ("⑤", "5"),
    ("Ⅷ", "viii"),
    ("½", "1/2"),
    ("２０２４年", "2024年"),
    ("ＹＥＳ", "YES"),
    ("yes", "YES"),
    ("はい", "YES"),
    ("カキクケコ", "ｶｷｸｹｺ"),
    ("山・川", "川・山"),
    ("山、川、海", "海、山、川"),
    ("山,川", "山、川"),
    ("山川", "山・川"),
    ("赤 青 黄", "黄 赤 青"),
    ("赤　青", "青 赤"),
    ("B a C", "a b c"),
    ("_a", "a"),
    ("a_b c", "c a_b"),
    ("ー", "—"),
    ("コーヒー", "コ-ヒ-"),
    ("人々", "人人"),
    ("〇", "○"),
    ("〇〇", "零零"),
    ("ΣΑΣ", "σας"),
    ("ΣΑΣ", "σασ"),
    ("İstanbul", "istanbul"),
    ("ǅ", "dž"),
    ("STRASSE", "straße"),
    ("e\u0301", "é"),
    ("क्षेत्र", "क्षत्र"),
    ("한국", "한국"),
    ("👩\u200d🔬", "👩🔬"),
    ("A\u200bB", "AB"),
    ("\ufeffA", "A"),
    ("A\u0000", "A"),
    ("①②③", "123"),
    ("٣", "3"),
    ("፲", "10"),
    ("東京都\t新宿区", "新宿区 東京都"),
    ("100,000", "100000"),
    ("3.14", "3 14"),
    ("-5", "5"),
    ("〜時", "~時"),
    ("ａ" * 40, "a" * 41),
    ("春,夏,秋,冬", "冬,秋,夏,春"),
    ("レオナルド・ダ・ヴィンチ", "ダ・ヴィンチ"),
    ("答えは富士山です。", "富士山"),
    ("富士山</s>", "富士山"),
    ("𠮷野", "吉野"),
    ("が\U000e0100", "が"),
]

PIECES = ["山", "川", "海辺", "ねこ", "いぬ", "カメラ", "ﾃﾚﾋﾞ", "Tokyo", "YES", "no", "２４", "365", "③", "Ⅳ", "é", "ö", "·", "×", "°"]
PIECES += ["・", "、", "。", ",", "-", "_", " ", "\u3000", "\n", "\r\n", "ー", "々", "〇", "○", "\u3099", "\u200d", "\ufeff", "🎐", "ς", "Ω"]


def torture_pairs():
    """The table above, then seeded random texts with edits of themselves."""
    rng = random.Random("torture pairs")
    pairs = list(PAIRS)
    for _ in range(220):
        gold = "".join(rng.choices(PIECES, k=rng.randint(1, 9)))
        pairs.append((edited(rng, gold), gold))
    # Long texts: the rounding of the ratio has more to round.
    for _ in range(24):
        gold = "".join(rng.choices("あいうえおかきくけこabcde01234 ・", k=rng.randint(60, 140)))
        pairs.append((edited(rng, gold, rng.randint(5, 60)), gold))
    return pairs


def edited(rng, text, times=None):
    """`text` after a few random deletions, insertions and swaps of neighbours."""
    characters = list(text)
    for _ in range(rng.randint(0, 4) if times is None else times):
        at = rng.randint(0, len(characters))
        kind = rng.choice(["delete", "insert", "swap", "repeat"])
        if kind == "delete":
            del characters[at : at + 1]
        elif kind == "insert":
            characters[at:at] = rng.choice(PIECES)
        elif kind == "swap":
            characters[at : at + 2] = reversed(characters[at : at + 2])
        else:
            characters[at:at] = ["\n", "\n"] if rng.random() < 0.2 else characters[at : at + 1]
    return "".join(characters)


def score_lists():
    """Lists of whole percents. A list of 120 whose total leaves 3 modulo 6 has a mean that ties at the fourth decimal."""
    rng = random.Random("score lists")
    lists = [[100], [7], [0, 0, 100], [33, 67, 58]]
    lists += [percents(rng, n) for n in [60, 99, 198, 200]]
    for number in range(16):
        scores = percents(rng, 120)
        while number % 2 == 0 and sum(scores) % 6 != 3:
            scores[rng.randrange(120)] = rng.randint(1, 99)
        lists.append(scores)
    return lists


def percents(rng, n):
    return [rng.choice([0, 100, 100, rng.randint(1, 99)]) for _ in range(n)]


BITS = [1, 3, 7, 8, 16, 31, 32, 33, 48, 53, 63, 64, 65, 96, 127, 128, 200]
BELOW = [1, 2, 3, 4, 5, 6, 8, 9, 16, 17, 63, 64, 65, 128, 129, 1000, 1024, 1025, 65535, 65537, 2**31, 2**32 - 1, 2**32, 2**32 + 1, 2**40]
RANGES = [(0, 12, 1), (3, 4, 1), (-9, 10, 4), (20, 0, -3), (0, 500, 11)]
SHUFFLES = [0, 1, 2, 3, 5, 9, 33, 128, 257]
SAMPLES = [(6, 3), (6, 6), (6, 0), (1, 1), (20, 3), (21, 4), (22, 5), (23, 6), (40, 1), (85, 6), (86, 6), (400, 21), (600, 90), (1200, 6)]


def python_random(seed):
    """Every list starts from a fresh seed and draws on; `shuffle` and `sample_fresh` are seeded again for each entry."""

    def fresh():
        return random.Random(seed)

    def shuffled(n):
        items = list(range(n))
        fresh().shuffle(items)
        return items

    lists = {"random": lambda rng: [rng.random() for _ in range(24)]}
    lists["getrandbits_32"] = lambda rng: [rng.getrandbits(32) for _ in range(16)]
    lists["getrandbits"] = lambda rng: [[bits, str(rng.getrandbits(bits))] for bits in BITS]
    lists["randbelow"] = lambda rng: [[n, rng._randbelow(n)] for n in BELOW]
    lists["randrange"] = lambda rng: [[*bounds, rng.randrange(*bounds)] for bounds in RANGES]
    lists["randint"] = lambda rng: [[low, high, rng.randint(low, high)] for low, high in [(5, 5), (1, 20), (-8, 8), (0, 2**41)]]
    lists["shuffle"] = lambda _: [[n, shuffled(n)] for n in SHUFFLES]
    lists["sample_fresh"] = lambda _: [[n, k, fresh().sample(range(n), k)] for n, k in SAMPLES]
    lists["sample_stream"] = lambda rng: [[n, k, rng.sample(range(n), k)] for n, k in SAMPLES + SAMPLES]
    lists["choice_stream"] = lambda rng: [[n, rng.choice(range(n))] for n in BELOW[:20]]
    lists["choices_stream"] = lambda rng: [[n, k, rng.choices(range(n), k=k)] for n, k in [(12, 5), (900, 9), (5, 20)]]
    lists["uniform"] = lambda rng: [rng.uniform(-2, 5) for _ in range(8)]
    lists["gauss"] = lambda rng: [rng.gauss(0, 1) for _ in range(8)]
    # JSON numbers beyond 64 bits are not portable: such a seed is written as text.
    written = seed if seed < 2**63 else str(seed)
    return {"seed": written, "produced_with": {"python": platform.python_version()}, **{k: make(fresh()) for k, make in lists.items()}}


def check_characters():
    for response, gold in torture_pairs():
        for character in response + gold:
            if unicodedata.category(character) == "Cn":
                raise ValueError(f"U+{ord(character):04X} is unassigned")


check_characters()
