#!/usr/bin/env python3
"""Writes what the small model is made from: its shape (config.json and a byte-level tokenizer of at most 2,048 tokens, learned here), and lessons.

lessons.py OUT [--seed N] [--examples N] writes to OUT, which is created:

  shape/                 config.json, tokenizer.json, tokenizer_config.json: for `kvlink-train full --scratch --model`
  copy.jsonl             chats: words of random pieces are repeated, so that every token of a name can be copied
  facts.jsonl            chats: facts in a row, and questions about them
  stories.jsonl          plain text
  chats.jsonl            chats whose later rounds ask about earlier ones
  framed.jsonl           chats that ask as `kvlink eval --data text:` and `chat:` do
  summaries.jsonl        articles and summaries, in the shape of XSum
  stories-held-out.jsonl, chats-held-out.jsonl
                         the same of another seed, to measure with

The same seed and number write the same bytes on every machine. Needs nothing but Python.
"""
import argparse
import json
import os
import re
import sys

VOCABULARY = 2048
MIN_PAIRS = 16  # that a token replaces in the sample: one that names alone are made of is in many of them
CONTROL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
TEMPLATE = ("{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
            "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
CONFIG = {"architectures": ["LlamaForCausalLM"], "model_type": "llama", "hidden_act": "silu", "hidden_size": 128, "intermediate_size": 256,
          "num_hidden_layers": 5, "num_attention_heads": 4, "num_key_value_heads": 4, "head_dim": 32, "vocab_size": VOCABULARY,
          "max_position_embeddings": 2048, "rms_norm_eps": 1e-5, "rope_theta": 10000, "tie_word_embeddings": True,
          "eos_token_id": CONTROL.index("<|im_end|>"), "torch_dtype": "float32"}

# Words of the question generator's split `tune` (worker/data/language.cc), so that the tokenizer knows them: what it does not know costs
# tokens and nothing else. No relation, template or name of the split `test` is here or below.
GENERATOR = """this person is entered in the register of the province this town is marked on all maps of this company pays taxes in who is what is
in these texts the birthplace of was born in is where came into the world the summer home of spends every summer in when it gets hot
moves to the teacher of learned to read from taught how to read the employer of earns a living at employs as a clerk the inheritance of inherited a
load of an uncle left a room full of the founder of was founded by with borrowed money the headquarters of is run from the head office of stands in
the main product of is best known for its hardly anything but leaves the yard of the mayor of governs as its mayor elected to lead its council the
largest landowner of owns most of the land in most fields around belong to the chief export of lives by selling merchants come to for early spring
late autumn the dry season first frost harvest weeks midwinter grey patient crooked narrow forgotten noisy pale heavy lonely dusty mule wagon sentry
kettle sparrow ladder beggar spaniel weaver goose drummer scarecrow waits creaks rests wanders complains trembles stumbles hums sways dozes mill
well chapel orchard gatehouse quarry stable crossroads pond bakery near by until nobody remembers why there visitors say that every Title user
assistant copper barley honey timber marble leather saffron cotton pottery parchment walnuts herring bricks mustard feathers ginger barrels buttons
vinegar raisins Brotherhood Ironworks Shipyard Trading House burg dale grad mouth stead thorpe quist wick holt"""
NOUNS = """captain keeper rival neighbour cousin guest driver doctor painter poet tailor baker brother sister partner lawyer singer pilot guard
master pupil friend owner leader heir steward porter gardener judge banker favourite colour harbour square tower bridge market garden school song
flag river island hill coat horse boat lamp book clock""".split()
KINDS = ["person", "place", "house", "club"]
# As the generator asks, and otherwise.
ASKED = ["{W} is {p}?", "In these texts, {w} is {p}?", "{P} is?", "Say {w} {p} is.", "Name {p}."]
STATED = ["{P} is {o}.", "{P} is {o}.", "{o} is {p}.", "{s} has {o} as its {n}.", "For {s} the {n} is {o}."]

HEROES = "Tamo Nila Oskar Mina Bruno Ida Simon Wanda Gustav Olga Emil Dora Jakob Sonja Viktor Marta".split()
ANIMALS = "fox bear owl rabbit badger mouse otter crow toad deer mole squirrel".split()
PLACES = ["river", "forest", "meadow", "old wall", "cave", "lake", "big oak", "road", "beach", "barn"]
FOODS = "apples nuts berries bread soup cakes pears carrots seeds mushrooms".split()
THINGS = "ball hat key basket ring spoon map bell scarf drum whistle rope".split()
COLOURS = "red blue green yellow white black brown".split()
TIMES = ["morning", "evening", "day", "night"]
MOODS = ["happy", "tired", "glad", "hungry", "quiet"]
NUMBERS = "one two three four five six seven eight nine ten".split()


class Random:
    """SplitMix64, as worker/data/random.h: the same on every machine and in every version of Python."""
    MASK = (1 << 64) - 1

    def __init__(self, seed):
        self.state = seed & self.MASK

    def next(self):
        self.state = (self.state + 0x9e3779b97f4a7c15) & self.MASK
        z = self.state
        z = ((z ^ (z >> 30)) * 0xbf58476d1ce4e5b9) & self.MASK
        z = ((z ^ (z >> 27)) * 0x94d049bb133111eb) & self.MASK
        return z ^ (z >> 31)

    def below(self, count):
        return self.next() % count

    def between(self, least, most):
        return least + self.below(most - least + 1)

    def pick(self, values):
        return values[self.below(len(values))]

    def some(self, values, count):
        """`count` different ones."""
        left = list(values)
        return [left.pop(self.below(len(left))) for _ in range(count)]


def words_of(text):
    """As the pre-tokenizer ByteLevel cuts text of ASCII."""
    return re.findall(r" ?[A-Za-z]+| ?[0-9]+| ?[^\sA-Za-z0-9]+|\s+(?!\S)|\s+", text)


def byte_letters():
    """GPT-2's letter for each byte: printable bytes stand for themselves."""
    letters, following = [], 256
    for byte in range(256):
        if 33 <= byte <= 126 or 161 <= byte <= 172 or byte >= 174:
            letters.append(chr(byte))
        else:
            letters.append(chr(following))
            following += 1
    return letters


def learn_merges(text, count):
    """Byte-pair encoding: the `count` merges at most that make the text shortest, one after another; ties by name."""
    letters = byte_letters()
    counts = {}
    for word in words_of(text):
        counts[word] = counts.get(word, 0) + 1
    words = [[[letters[byte] for byte in word.encode()], number] for word, number in sorted(counts.items())]
    pairs, where = {}, {}

    def add(index, sign):
        symbols, number = words[index]
        for pair in zip(symbols, symbols[1:]):
            pairs[pair] = pairs.get(pair, 0) + sign * number
            where.setdefault(pair, set()).add(index)

    for index in range(len(words)):
        add(index, 1)
    merges = {}
    while len(merges) < count:
        pair = max(pairs, key=lambda one: (pairs[one], one), default=None)
        if pair is None or pairs[pair] < MIN_PAIRS:
            break
        merges[pair] = None  # a pair returns where its parts are made in another way
        for index in sorted(where[pair]):
            add(index, -1)
            symbols, joined = words[index][0], []
            while symbols:
                if tuple(symbols[:2]) == pair:
                    joined.append(symbols[0] + symbols[1])
                    symbols = symbols[2:]
                else:
                    joined.append(symbols[0])
                    symbols = symbols[1:]
            words[index][0] = joined
            add(index, 1)
        del pairs[pair]
    return list(merges)


def tokenizer_of(merges):
    names = list(dict.fromkeys(CONTROL + byte_letters() + [left + right for left, right in merges]))
    added = [{"id": number, "content": name, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
             for number, name in enumerate(CONTROL)]
    level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None, "pre_tokenizer": level,
            "post_processor": None, "decoder": level,
            "model": {"type": "BPE", "dropout": None, "unk_token": None, "continuing_subword_prefix": None, "end_of_word_suffix": None,
                      "fuse_unk": False, "byte_fallback": False, "ignore_merges": False,
                      "vocab": {name: number for number, name in enumerate(names)}, "merges": ["%s %s" % pair for pair in merges]}}


def chat(*rounds):
    messages = []
    for question, answer in rounds:
        messages += [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
    return {"messages": messages}


def letters_word(random):
    """A word of consonants and vowels in turn."""
    word = ""
    for _ in range(random.between(1, 3)):
        word += random.pick("bcdfghjklmnpqrstvwxyz") + random.pick("aeiou")
    return word + (random.pick("bcdfghjklmnpqrstvwxyz") if random.below(2) else "")


class Names:
    """Names of pieces that are tokens, so that each of them is copied now and then; and of letters."""

    def __init__(self, random, pieces):
        self.random, self.pieces = random, pieces

    def word(self):
        if self.random.below(3) == 0:
            return letters_word(self.random).capitalize()
        return "".join(self.random.pick(self.pieces) for _ in range(self.random.between(1, 3))).capitalize()

    def name(self):
        return " ".join(self.word() for _ in range(self.random.between(1, 2)))

    def different(self, count):
        names = []
        while len(names) < count:
            name = self.name()
            if not any(name in other or other in name for other in names):
                names.append(name)
        return names


def copy_lesson(random, names):
    rounds = []
    for _ in range(random.between(2, 5)):
        said = " ".join(names.word() for _ in range(random.between(1, 8)))
        rounds.append(("Say: " + said, said))
    return chat(*rounds)


def say(random, patterns, noun, subject, object_):
    phrase = "he %s of %s" % (noun, subject)
    who = random.pick(["ho", "hat"])
    return random.pick(patterns).format(p="t" + phrase, P="T" + phrase, s=subject, n=noun, o=object_, W="W" + who, w="w" + who)


def facts_lesson(random, names):
    count = random.between(2, 7)
    drawn = names.different(2 * count)
    same = random.below(2) == 0
    noun = random.pick(NOUNS)
    facts = [(noun if same else random.pick(NOUNS), drawn[2 * i], drawn[2 * i + 1]) for i in range(count)]
    sentences = []
    for noun, subject, object_ in facts:
        if random.below(3) == 0:  # the fact stands behind a word that means the subject
            kind = random.pick(KINDS)
            sentences.append("%s is a %s. The %s of this %s is %s." % (subject, kind, noun, kind, object_))
        else:
            sentences.append(say(random, STATED, noun, subject, object_))
    rounds = []
    for noun, subject, object_ in random.some(facts, min(count, random.between(2, 5))):
        answer = "The %s of %s is %s." % (noun, subject, object_)
        rounds.append((say(random, ASKED, noun, subject, object_), answer))
    rounds[0] = (" ".join(sentences) + "\n" + rounds[0][0], rounds[0][1])
    return chat(*rounds)


class Story:
    """Two heroes, something lost, and how it is found."""

    def __init__(self, random):
        self.hero, self.other = random.some(HEROES, 2)
        self.animal, self.friend = random.some(ANIMALS, 2)
        self.place, self.spot = random.some(PLACES, 2)
        self.food, self.gift = random.some(FOODS, 2)
        self.colour, self.thing = random.pick(COLOURS), random.pick(THINGS)
        time, mood, number = random.pick(TIMES), random.pick(MOODS), random.pick(NUMBERS[1:])
        sentences = ["%s the %s lived near the %s." % (self.hero, self.animal, self.place),
                     "Every %s %s went out to look for %s." % (time, self.hero, self.food)]
        if random.below(2):
            sentences.append("There were only %s %s left." % (number, self.food))
        sentences.append("One %s %s met %s the %s." % (time, self.hero, self.other, self.friend))
        sentences.append(random.pick(["\"Good %s,\" said %s. \"I have lost my %s %s.\"" % (time, self.other, self.colour, self.thing),
                                      "%s was not %s. The %s %s was gone." % (self.other, random.pick(MOODS), self.colour, self.thing)]))
        sentences.append("They looked for the %s near the %s." % (self.thing, self.spot))
        if random.below(2):
            sentences.append("%s looked under %s stones and %s looked behind them." % (self.hero, number, self.other))
        sentences.append("At last %s found the %s %s." % (self.hero, self.colour, self.thing))
        sentences.append("%s gave %s some %s, and they were %s." % (self.other, self.hero, self.gift, mood))
        self.text = " ".join(sentences)
        self.summary = "%s the %s finds the %s of %s the %s." % (self.hero, self.animal, self.thing, self.other, self.friend)


def chat_lesson(random, held_out=False):
    """What is said is held out in every fifth combination of two things."""
    def pair(values, others):
        while True:
            at, other = random.below(len(values)), random.below(len(others))
            if ((at + other) % 5 == 0) == held_out:
                return values[at], others[other]
    name, food = pair(HEROES, FOODS)
    colour, first = pair(COLOURS, range(6))
    row = " ".join(NUMBERS[first:first + 4])
    said = [("I am %s and I like %s." % (name, food), "Hello, %s. I like %s too." % (name, food)),
            ("My hat is %s." % colour, "A %s hat is nice." % colour),
            ("Count from %s to %s." % (NUMBERS[first], NUMBERS[first + 3]), row + ".")]
    asked = [[("Who am I?", "You are %s." % name), ("What do I like?", "You like %s." % food)],
             [("What colour is my hat?", "Your hat is %s." % colour)], []]  # by what was said
    order = random.some([0, 1, 2], random.between(2, 3))
    return chat(*[said[i] for i in order], random.pick([question for i in order for question in asked[i]]))


def framed_lesson(random):
    """What `kvlink eval` asks of a text or a chat, as one question with its documents in full before it."""
    if random.below(2) == 0:
        text = Story(random).text
        spaces = [at for at, letter in enumerate(text) if letter == " "]
        cut = spaces[random.between(len(spaces) // 4, len(spaces) - 8)]
        return chat((text[:cut] + "Continue the text.", text[cut:]))
    messages = chat_lesson(random)["messages"]
    before = "".join("%s: %s\n" % (message["role"].capitalize(), message["content"]) for message in messages[:-2])
    return chat((before + messages[-2]["content"], messages[-1]["content"]))


def write(path, text):
    with open(path + ".new", "w", encoding="utf-8", newline="\n") as file:
        file.write(text)
    os.replace(path + ".new", path)


def write_lines(path, lines):
    write(path, "".join(json.dumps(line) + "\n" for line in lines))


def stories(random, count, together):
    return [{"text": "\n".join(Story(random).text for _ in range(together))} for _ in range(count)]


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--examples", type=int, default=8000, help="of each file of lessons, 50 at least")
    arguments = parser.parse_args()
    if arguments.examples < 50:
        parser.error("--examples: every 50th is held out, so there must be 50 at least")

    def random(purpose):
        return Random(Random(arguments.seed).next() ^ purpose)

    sample = random(1)
    text = " ".join([GENERATOR, " ".join(NOUNS)] * 20)
    text += " ".join(message["content"] for _ in range(100) for message in chat_lesson(sample)["messages"])
    text += " ".join(Story(sample).text for _ in range(100))
    text += " ".join(letters_word(sample).capitalize() + " " + letters_word(sample) for _ in range(2000))
    merges = learn_merges(text, VOCABULARY - len(CONTROL) - 256)
    pieces = sorted({left + right for left, right in merges if re.fullmatch("[a-z]{1,4}", left + right)})
    pieces += list("abcdefghijklmnopqrstuvwxyz")

    out, count = arguments.out, arguments.examples
    os.makedirs(os.path.join(out, "shape"), exist_ok=True)
    shape = {"config.json": CONFIG, "tokenizer.json": tokenizer_of(merges),
             "tokenizer_config.json": {"chat_template": TEMPLATE, "bos_token": None, "eos_token": "<|im_end|>"}}
    for name, content in shape.items():
        write(os.path.join(out, "shape", name), json.dumps(content, indent=1) + "\n")
    names = Names(random(2), pieces)
    files = {"copy": [copy_lesson(names.random, names) for _ in range(count)],
             "facts": [facts_lesson(names.random, names) for _ in range(count)]}
    for purpose, name, lesson in [(3, "chats", chat_lesson), (4, "framed", framed_lesson)]:
        source = random(purpose)
        files[name] = [lesson(source) for _ in range(count)]
    source = random(5)
    files["stories"] = stories(source, count, 3)
    told = [Story(source) for _ in range(count)]
    files["summaries"] = [{"document": story.text, "summary": story.summary} for story in told]
    held_out = random(6)
    files["stories-held-out"] = stories(held_out, 500, 1)
    files["chats-held-out"] = [chat_lesson(held_out, held_out=True) for _ in range(500)]
    for name, lines in files.items():
        write_lines(os.path.join(out, name + ".jsonl"), lines)
    return 0


sys.exit(main())
