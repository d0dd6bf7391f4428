#!/usr/bin/env python3
"""Makes tokenizer/*.json: strings, and what the reference tokenizers make of them.

  strings.json     the strings
  splits.json      per pre-tokenizer the byte lengths of the pieces of each string (Hugging Face tokenizers, published patterns)
  smollm2.json     ids and text of SmolLM2: tokenizers built from the GGUF's vocabulary and merges with SmolLM's pre-tokenizer
  bpe.json, sentencepiece.json
                   small tokenizer.json files trained here
  cases.json       variants of these two (keys to replace), strings, ids with and without control tokens, decoded text
  pieces.json      the pieces and scores of sentencepiece.json as a GGUF has them, and the ids the sentencepiece library gives

Needs: pip install tokenizers==0.23.3 sentencepiece==0.2.3 gguf; llama-cpp-python is used for a cross-check if it is there.
Usage: make_tokenizer.py [MODEL.gguf]
"""
import io
import json
import pathlib
import random
import sys
import unicodedata

import sentencepiece
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

HERE = pathlib.Path(__file__).resolve().parent
OUT = HERE / "tokenizer"
MODEL = HERE.parent.parent / "models" / "SmolLM2-135M-Instruct.Q4_1.gguf"

LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")
QWEN2 = LLAMA3.replace(r"\p{N}{1,3}", r"\p{N}")

SENTENCES = """The cache of a document is computed once and read by every question that needs it.
It's what they'd've said: we're here, I'm there, you'll see, don't, CAN'T, He'S, WE'LL, THEY'RE, I'VE.
A key/value store on 3 nodes answered 1,234,567 requests in 89.5 seconds, about 13,794 a second.
Der Fluss führte Hochwasser; die Straßenbahn hielt trotzdem an der Universität.
Où est la bibliothèque ? À côté de l'école, près du café, s'il vous plaît.
¿Cuántos años tiene? Tiene veintidós años y vive en Logroño.
Dzień dobry, czy mogę prosić o żółtą łódkę i gęsią skórkę?
Příliš žluťoučký kůň úpěl ďábelské ódy.
Съешь же ещё этих мягких французских булок, да выпей чаю.
Ο ουρανός είναι γαλάζιος και η θάλασσα ήρεμη σήμερα.
כל אדם נולד חופשי ושווה בכבוד ובזכויות.
يولد جميع الناس أحرارا متساوين في الكرامة والحقوق ٠١٢٣٤٥٦٧٨٩.
सभी मनुष्यों को गौरव और अधिकारों के मामले में जन्मजात स्वतन्त्रता प्राप्त है १२३।
সমস্ত মানুষ স্বাধীনভাবে সমান মর্যাদা নিয়ে জন্মগ্রহণ করে।
மனிதப் பிறவியினர் சகலரும் சுதந்திரமாகவே பிறக்கின்றனர்.
มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกัน
人人生而自由,在尊严和权利上一律平等。他们赋有理性和良心。
すべての人間は、生まれながらにして自由であり、カタカナも使う。
모든 인간은 태어날 때부터 자유로우며 그 존엄과 권리에 있어 동등하다.
Tất cả mọi người sinh ra đều được tự do và bình đẳng về nhân phẩm.
Bütün insanlar hür, haysiyet ve haklar bakımından eşit doğarlar; İstanbul'da ılık.
ყველა ადამიანი იბადება თავისუფალი.
Բոլոր մարդիկ ծնվում են ազատ ու հավասար։
የሰው ልጅ ሁሉ ሲወለድ ነፃና በክብር የተስተካከለ ነው።
for (int i = 0; i < n; ++i) { sum += a[i] * b[i]; }  // dot product
def f(x):\n    if x is None:\n        return {}\n\n    return {k: v for k, v in x.items() if v != 0}
<div class="a">Tom &amp; Jerry</div><!-- comment -->\n\t<br/>
SELECT id, COUNT(*) FROM docs WHERE size >= 4096 GROUP BY id ORDER BY 2 DESC;
#include <vector>\n\nint main() {\n\treturn 0;\n}\n
{"key": [1, 2.5e-10, null, true], "text": "a\\nb"}
https://example.org/path?q=a%20b&c=d#e user@example.org 192.168.0.1:8080 2024-02-29T23:59:59Z
E = mc², H₂O, ½ + ⅓ = ⅚, Ⅷ, ①②③, x ∈ ℝ, ∑ᵢ aᵢ ≤ ∞, 25 °C, 10 µm, $5.00, €7, ¥900, 50%
😀 👍🏽 👩‍👩‍👧‍👦 🏳️‍🌈 🇩🇪🇫🇷 ❤️ ☕︎ 🧑🏿‍🚀 ✅ 1️⃣ 🫠
“quoted” ‘single’ — dash – and … ellipsis «guillemets» 「括弧」 isn’t
<|im_start|>user\nIgnore this<|im_end|>\n<|endoftext|> <|im_start <|im_end|
[INST] hello [/INST] <s></s> <unk> <0x0A> ▁under▁score Ġ Ċ""".replace("\\n", "\n").replace("\\t", "\t").split("\n")

SPACES = [" ", "  ", "   ", "\t", "\n", "\r\n", "\r", "\n\n", " \n", "\n ", "\u00a0", "\u2003", "\u3000", "\u2028", "\x85", "\x0b",
          "\x0c", "    ", "\t\t\t", "        ", "\u200b", "\ufeff"]
CONTRACTIONS = ["'s", "'S", "'t", "'T", "'re", "'RE", "'rE", "'ve", "'VE", "'m", "'M", "'ll", "'LL", "'lL", "'d", "'D", "'\u017f", "'r",
                "'v", "'l", "'", "''s", " 's", "'x", "\u2019s"]
RANGES = [(0x20, 0x7E), (0xA0, 0x24F), (0x250, 0x36F), (0x370, 0x52F), (0x531, 0x6FF), (0x900, 0xDFF), (0xE00, 0x11FF), (0x1E00, 0x20CF),
          (0x2100, 0x27BF), (0x3000, 0x31FF), (0x3400, 0x9FFF), (0xAC00, 0xD7A3), (0xF900, 0xFFFD), (0x10000, 0x1077F), (0x1D400, 0x1D7FF),
          (0x1F000, 0x1FAFF), (0x20000, 0x2A6DF), (0xE0000, 0xE01EF)]


def characters(random_, count):
    first, last = random_.choice(RANGES)
    out = ""
    while len(out) < count:
        c = chr(random_.randint(first, last))
        if unicodedata.category(c) not in ("Cn", "Cs") or random_.random() < 0.02:
            out += c
    return out


def make_strings():
    random_ = random.Random(2)
    strings = [""] + [s for s in SENTENCES if s] + ["\n".join(SENTENCES[24:30])]
    strings += [chr(c) for c in range(0x20)] + [chr(c) for c in range(0x7F, 0xA1)]
    strings += [f"a{chr(c)}b {chr(c)}{chr(c)} 1{chr(c)}2" for c in list(range(0x21)) + [0x7F, 0x85, 0xA0, 0xAD, 0x200D, 0x2028, 0xFFFD, 0xFFFF, 0x10FFFF]]
    strings += [s * n for s in (" ", "\n", "\t", "a", "1", "é", "😀", "!", "\u00a0", " \n", "ab ", "12 ") for n in (1, 2, 3, 4, 5, 7, 8, 16, 17, 63, 130)]
    strings += [a + b + c for a in ("", "I", "1", " ", "\n") for b in CONTRACTIONS for c in ("", "x", " y")]
    words = [w for s in SENTENCES for w in s.split()]
    parts = [
        lambda: random_.choice(words), lambda: random_.choice(words), lambda: random_.choice(SPACES), lambda: random_.choice(SPACES),
        lambda: " ", lambda: str(random_.randint(0, 10**random_.randint(1, 12))), lambda: random_.choice(CONTRACTIONS),
        lambda: characters(random_, random_.randint(1, 6)), lambda: chr(random_.randint(0, 0x9F)),
        lambda: "".join(random_.choice("+-*/=<>!?.,;:()[]{}@#$%^&|~`'\"\\_") for _ in range(random_.randint(1, 5))),
        lambda: unicodedata.normalize("NFD", random_.choice(words)),
    ]
    while len(strings) < 2400:
        strings.append("".join(random_.choice(parts)() for _ in range(random_.randint(1, 14))))
    return [s.encode("utf-8", "ignore").decode() for s in strings]


def write(name, value):
    text = json.dumps(value, separators=(",", ":"))
    (OUT / name).write_text(text + "\n")
    print(f"{name}: {len(text)} bytes")


def spelled_lengths(pieces):
    return [len(text) for text, _ in pieces]  # of byte-level spelling: one character per byte


def make_splits(strings):
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    split = lambda regex: pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(regex), "isolated"), byte_level])
    gpt2 = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    kinds = {
        "gpt2": gpt2,
        "smollm": pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), gpt2]),
        "llama3": split(LLAMA3),
        "qwen2": split(QWEN2),
    }
    write("splits.json", {k: [spelled_lengths(p.pre_tokenize_str(s)) for s in strings] for k, p in kinds.items()})


def encode(tokenizer, text, parse_special):
    tokenizer.encode_special_tokens = not parse_special
    return tokenizer.encode(text, add_special_tokens=False).ids


def make_smollm2(strings, path):
    import gguf
    fields = {k: f for k, f in gguf.GGUFReader(path).fields.items() if k.startswith("tokenizer.ggml.")}
    value = lambda key: fields["tokenizer.ggml." + key].contents()
    tokens, types = value("tokens"), value("token_type")
    merges = [tuple(m.split(" ")) for m in value("merges")]
    tokenizer = Tokenizer(models.BPE({t: i for i, t in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)])
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t, k in zip(tokens, types) if k == 3])
    plain = [encode(tokenizer, s, False) for s in strings]
    special = {i: encode(tokenizer, s, True) for i, s in enumerate(strings)}
    special = {i: ids for i, ids in special.items() if ids != plain[i]}
    decoded = {i: tokenizer.decode(ids, skip_special_tokens=False) for i, ids in enumerate(plain)}
    random_ = random.Random(3)
    sequences = [[random_.randrange(len(tokens)) for _ in range(random_.randint(1, 20))] for _ in range(300)]
    write("smollm2.json", {
        "ids": plain,
        "ids_with_control_tokens": special,
        "decoded_if_changed": {i: t for i, t in decoded.items() if t != strings[i]},
        "sequences": [[s, tokenizer.decode(s, skip_special_tokens=False), tokenizer.decode(s, skip_special_tokens=True)] for s in sequences],
    })
    try:
        import llama_cpp
    except ImportError:
        print("no llama-cpp-python: not cross-checked")
        return
    llama = llama_cpp.Llama(str(path), vocab_only=True, verbose=False)
    different = [i for i, s in enumerate(strings) if llama.tokenize(s.encode(), add_bos=False, special=False) != plain[i]]
    print(f"llama.cpp differs on {len(different)} of {len(strings)} strings: {[strings[i][:40] for i in different[:5]]}")


class Cases:
    def __init__(self):
        self.out = []

    def add(self, name, base, change, strings):
        """`change` maps keys of the base (or "model.KEY") to other values; what tokenizers makes of that is the reference."""
        description = json.loads(json.dumps(base[1]))
        for key, value in change.items():
            target = description
            *path, last = key.split(".")
            for part in path:
                target = target[part]
            target[last] = value
        tokenizer = Tokenizer.from_str(json.dumps(description))
        ids = [encode(tokenizer, s, False) for s in strings]
        special = [encode(tokenizer, s, True) for s in strings]
        decoded = [[tokenizer.decode(i, skip_special_tokens=skip) for skip in (False, True)] for i in special]
        self.out.append({"name": name, "base": base[0], "change": change, "strings": strings, "ids": ids,
                         "ids_with_control_tokens": special, "decoded": decoded})


def added(content, id_, **flags):
    token = {"id": id_, "content": content, "single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": False}
    return {**token, **flags}


def byte_level(prefix, regex):
    return {"type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": True, "use_regex": regex}


def split_then_byte_level(regex):
    return {"type": "Sequence", "pretokenizers": [{"type": "Split", "pattern": {"Regex": regex}, "behavior": "Isolated", "invert": False},
                                                  byte_level(False, False)]}


def make_bpe(cases, strings):
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=600, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    tokenizer.train_from_iterator(SENTENCES * 3, trainer)
    description = json.loads(tokenizer.to_str())
    write("bpe.json", description)
    base = ("bpe.json", description)
    size = len(description["model"]["vocab"])
    some = strings[:36] + strings[200:2400:70]
    cases.add("gpt2", base, {}, some)
    cases.add("prefix space", base, {"pre_tokenizer": byte_level(True, True)}, some)
    cases.add("no regex", base, {"pre_tokenizer": byte_level(False, False)}, some)
    for individual in (False, True):
        digits = {"type": "Digits", "individual_digits": individual}
        cases.add(f"digits {individual}", base, {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [digits, byte_level(False, True)]}}, some)
    cases.add("digits and prefix space", base, {"pre_tokenizer": {"type": "Sequence", "pretokenizers": [digits, byte_level(True, True)]}}, some)
    vocabulary = dict(description["model"]["vocab"], **{"Ġanswered": size, "requests": size + 1, "Ġ": description["model"]["vocab"]["Ġ"]})
    cases.add("llama3, ignore_merges", base, {"pre_tokenizer": split_then_byte_level(LLAMA3), "model.ignore_merges": True, "model.vocab": vocabulary}, some)
    cases.add("llama3, merges kept", base, {"pre_tokenizer": split_then_byte_level(LLAMA3), "model.vocab": vocabulary}, some)
    cases.add("qwen2, NFC", base, {"pre_tokenizer": split_then_byte_level(QWEN2), "normalizer": {"type": "NFC"}}, some)
    cases.add("NFC in a sequence", base, {"normalizer": {"type": "Sequence", "normalizers": [{"type": "NFC"}, {"type": "Replace", "pattern": {"String": "a"}, "content": "bc"}]}}, some)
    tokens = [
        added("<c>", size, special=True), added("word", size + 1, single_word=True), added("<l>", size + 2, lstrip=True, special=True),
        added("<r>", size + 3, rstrip=True, special=True), added("<b>", size + 4, lstrip=True, rstrip=True), added("ő", size + 5, normalized=True),
        added("abc", size + 6), added("ab", size + 7), added("bcd", size + 8), added("<c>x", size + 9, special=True), added("  ", size + 10),
        added("<w>", size + 11, single_word=True, lstrip=True, rstrip=True, special=True), added("e\u0301\u0323", size + 12, normalized=True, single_word=True),
        added("c>y", size + 13), added("<n>", size + 14, normalized=True, rstrip=True), added("the", description["model"]["vocab"].get("the", size + 15)),
    ]
    texts = ["<c>", "a<c>b", "<c><c>", "<c>x<c>y", "word", "words", "a word.", "sword", "word word", "wordé word_ word-word 1word", "日word word日",
             "a  <l>  b", "a <r>  b", "  <b>\t\n b", "<l> <l> <r> <r>", "a <l><b> <r> b", "ő o\u030b cso\u030bs csőr", "abcd ab abc bcd abcdabc xbcd",
             "<w>", "a<w>b", "a <w> b", " <w> <w> ", "e\u0323\u0301 \u1eb9\u0301 xe\u0323\u0301", "<n>   x<n>", "a  b    c", " <b> ", "<b>", "<n> <b>  <c>",
             "the other the", "<l>", "  <l>", "<r>  ", "\u3000<l>\u3000<r>\u3000x", "<c", "c>y", "<c>y", "\u00a0<b>\u2028", ""] + strings[:8]
    cases.add("added tokens", base, {"added_tokens": tokens}, texts)
    cases.add("added tokens, NFC", base, {"added_tokens": tokens, "normalizer": {"type": "NFC"}}, texts)
    small = {t: i for i, t in enumerate(t for t in description["model"]["vocab"] if len(t) > 1 or t not in "xyz!é")}
    merges = [m for m in description["model"]["merges"] if all(t in small for t in (*m, m[0] + m[1]))]
    small["<unk>"] = len(small)
    for fuse in (False, True):
        cases.add(f"unknown bytes, fuse {fuse}", base, {"model.vocab": small, "model.merges": merges, "model.unk_token": "<unk>", "model.fuse_unk": fuse},
                  ["xyz", "a!!xé b", "fox", "xx yy", "!"] + some[:20])
    cases.add("unknown bytes dropped", base, {"model.vocab": small, "model.merges": merges}, ["xyz", "a!!xé b", "fox", "xx yy", "!"] + some[:20])


def make_sentencepiece(cases, strings):
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([line for s in SENTENCES * 20 for line in s.split("\n")]), model_writer=model, model_type="bpe", vocab_size=900,
        byte_fallback=True, character_coverage=0.98, normalization_rule_name="identity", remove_extra_whitespaces=False, split_digits=True,
        allow_whitespace_only_pieces=True, minloglevel=2)
    library = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    count = library.get_piece_size()
    pieces = [library.id_to_piece(i) for i in range(count)]
    scores = [library.get_score(i) for i in range(count)]
    kind = lambda i: 2 if library.is_unknown(i) else 3 if library.is_control(i) else 6 if library.is_byte(i) else 1
    types = [kind(i) for i in range(count)]
    ids = [library.encode(s) for s in strings]
    write("pieces.json", {"tokens": pieces, "scores": scores, "token_types": types, "ids": ids,
                          "decoded_if_changed": {i: library.decode(x) for i, x in enumerate(ids) if library.decode(x) != strings[i]}})

    vocabulary = {p: i for i, p in enumerate(pieces)}
    normal = {p: i for p, i in vocabulary.items() if types[i] == 1}
    merges = sorted((-scores[i], normal[p[:k]], normal[p[k:]], p[:k], p[k:]) for p, i in normal.items() for k in range(1, len(p)) if p[:k] in normal and p[k:] in normal)
    tokenizer = Tokenizer(models.BPE(vocabulary, [m[3:] for m in merges], unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)])
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in ("<unk>", "<s>", "</s>")])
    description = json.loads(tokenizer.to_str())
    write("sentencepiece.json", description)
    base = ("sentencepiece.json", description)
    some = strings[1:36] + strings[210:2400:70] + ["<s>a</s> b", " <s> x", "a<s>", "▁a", "", " ", "  a", "a  b"]
    cases.add("llama2", base, {}, some)
    for scheme in ("always", "first", "never"):
        for split in (False, True):
            space = {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": split}
            cases.add(f"metaspace {scheme} {split}", base, {"normalizer": None, "pre_tokenizer": space}, some[::2] + some[-8:])
            valid = [s for s in some[-8:] + ["the cache of a document", "  a key", "a\u00a0b"]]
            cases.add(f"metaspace decoder {scheme} {split}", base, {"normalizer": None, "pre_tokenizer": space, "decoder": space, "model.byte_fallback": False}, valid)
    tokens = description["added_tokens"] + [added("<sep>", count, normalized=True), added("[x]", count + 1, lstrip=True), added("▁▁", vocabulary["▁▁"])]
    cases.add("llama2, added tokens", base, {"added_tokens": tokens}, ["a<sep>b", "<sep>", " <sep> x", "a [x] b", "[x]", "▁▁ a", "a<s><sep>"])
    fewer = {p: i for p, i in vocabulary.items() if types[i] != 6}
    fewer = {p: i for i, p in enumerate(fewer)}
    for fuse in (False, True):
        cases.add(f"no bytes, fuse {fuse}", base, {"model.vocab": fewer, "model.byte_fallback": False, "model.fuse_unk": fuse,
                                                   "added_tokens": [added("<unk>", 0, special=True)]}, ["a☃☃b", "☃", "日本☃ x☃", "the ☃ cache"])


def main():
    OUT.mkdir(exist_ok=True)
    strings = make_strings()
    write("strings.json", strings)
    make_splits(strings)
    cases = Cases()
    make_bpe(cases, strings)
    make_sentencepiece(cases, strings)
    write("cases.json", cases.out)
    path = pathlib.Path(sys.argv[1]) if len(sys.argv) > 1 else MODEL
    if path.exists():
        make_smollm2(strings, path)
    else:
        print(f"{path} is missing: smollm2.json is left as it is")


main()
