// The steps of the tokenizers library in its order: added tokens, normaliser, pre-tokenizer, merges. Decoding reverses
// them. A description contains only supported steps; its readers refuse the rest.
#include "worker/text/tokenizer_bpe.h"

#include <algorithm>
#include <array>
#include <deque>
#include <utility>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "base/status.h"
#include "worker/text/unicode.h"

namespace kvlink::model {
namespace {

// The first of the characters that spell bytes other than printable Latin-1 ones.
constexpr char32_t kFirstSpelledByte = 0x100;

// Whether some text in UTF-8 holds the byte.
bool InText(uint8_t byte) { return byte < 0xC0 || (byte >= 0xC2 && byte < 0xF5); }

bool SpellsItself(int byte) { return (byte >= 0x21 && byte <= 0x7E) || (byte >= 0xA1 && byte <= 0xFF && byte != 0xAD); }

std::string Utf8Of(char32_t c) {
  std::string out;
  AppendUtf8(c, out);
  return out;
}

// The byte for which a token such as "<0x0A>" stands; -1 for any other token.
int FallbackByte(absl::string_view token) {
  if (token.size() != 6 || token.substr(0, 3) != "<0x" || token[5] != '>') return -1;
  int value = 0;
  for (const char c : token.substr(3, 2)) {
    const int digit = c >= '0' && c <= '9'   ? c - '0'
                      : c >= 'A' && c <= 'F' ? c - 'A' + 10
                      : c >= 'a' && c <= 'f' ? c - 'a' + 10
                                             : -1;
    if (digit < 0) return -1;
    value = value * 16 + digit;
  }
  return value;
}

// Cuts `text` before each kSpaceMark.
void SplitAtMarks(absl::string_view text, std::vector<absl::string_view>& pieces) {
  while (!text.empty()) {
    const size_t end = text.find(kSpaceMark, 1);
    pieces.push_back(text.substr(0, end));
    text.remove_prefix(std::min(end, text.size()));
  }
}

// The position of a text in its sequence, which decides whether SentencePiece adds a space.
enum class Standing { kFirst, kAfterAdded, kAfterText };

class BpeTokenizer final : public Tokenizer {
 public:
  absl::Status Init(TokenizerDescription description);

  int64_t vocab_size() const override { return static_cast<int64_t>(bytes_.size()); }
  absl::StatusOr<std::vector<int32_t>> Encode(absl::string_view text, bool parse_special) const override {
    return Run(Standing::kFirst, text, parse_special);
  }
  absl::StatusOr<std::vector<int32_t>> EncodeAfter(int32_t previous, absl::string_view text,
                                                   bool parse_special) const override {
    const bool added = previous >= 0 && previous < vocab_size() && added_[previous];
    return Run(added ? Standing::kAfterAdded : Standing::kAfterText, text, parse_special);
  }
  std::string TokenBytes(int32_t id) const override {
    return id >= 0 && id < vocab_size() ? bytes_[id] : std::string();
  }
  std::string FirstTokenBytes(int32_t id) const override;
  std::string Decode(absl::Span<const int32_t> ids, bool skip_special) const override;
  std::optional<int32_t> TokenId(absl::string_view text) const override {
    const auto found = ids_.find(text);
    return found == ids_.end() ? std::nullopt : std::optional<int32_t>(found->second);
  }
  bool IsSpecial(int32_t id) const override { return id >= 0 && id < vocab_size() && special_[id]; }
  std::optional<int32_t> bos() const override { return bos_ < 0 ? std::nullopt : std::optional<int32_t>(bos_); }

 private:
  struct Scratch {
    BpeMerges::Workspace merges;
    std::vector<int32_t> symbols;
    std::vector<absl::string_view> pieces, next_pieces;
    std::string spelled;
  };

  absl::Status InitTokens();
  absl::Status CheckIds() const;
  absl::Status InitAdded();
  void InitBytes();
  absl::StatusOr<std::vector<int32_t>> Run(Standing standing, absl::string_view text, bool parse_special) const;
  std::string Normalize(absl::string_view text, bool prefix) const;
  void EncodeText(Standing standing, absl::string_view text, Scratch& scratch, std::vector<int32_t>& out) const;
  void EncodeWord(absl::string_view word, Scratch& scratch, std::vector<int32_t>& out) const;
  void BytesToSymbols(absl::string_view word, std::vector<int32_t>& symbols) const;
  void CharactersToSymbols(absl::string_view word, std::vector<int32_t>& symbols) const;
  void AppendUnknown(bool& open, std::vector<int32_t>& symbols) const;

  TokenizerDescription d_;  // without its tokens, merges and added tokens after Init
  int32_t bos_ = -1;
  BpeMerges merges_;
  AddedTokenMatcher raw_added_, normalized_added_;
  absl::flat_hash_map<std::string, int32_t> ids_;
  std::vector<std::string> bytes_;  // by id
  std::vector<bool> special_, added_;
  std::array<int32_t, 256> byte_ids_;  // byte_level: token of the byte; otherwise of "<0xNN>"; -1: none
};

absl::Status BpeTokenizer::Init(TokenizerDescription description) {
  d_ = std::move(description);
  KVLINK_RETURN_IF_ERROR(InitTokens());
  KVLINK_RETURN_IF_ERROR(CheckIds());
  KVLINK_RETURN_IF_ERROR(InitAdded());
  InitBytes();
  bos_ = d_.bos;
  merges_.Reserve(d_.merges.size());
  for (const auto& merge : d_.merges) {
    // No text, however spelled, may merge into a control token: control tokens match only before the merges, if at all.
    if (!special_[merge.merged]) merges_.Add(merge.left, merge.right, merge.rank, merge.merged);
  }
  d_.tokens = {};
  d_.merges = {};
  d_.added = {};
  return absl::OkStatus();
}

absl::Status BpeTokenizer::InitTokens() {
  size_t size = d_.tokens.size();
  for (const AddedToken& token : d_.added) {
    // Files number tokens without large gaps; a huge id would only waste memory.
    if (token.id < 0 || static_cast<size_t>(token.id) > d_.tokens.size() * 4 + d_.added.size() + 4096) {
      return absl::InvalidArgumentError(
          absl::StrCat("added token \"", token.content, "\": id ", token.id, " is out of range"));
    }
    size = std::max(size, static_cast<size_t>(token.id) + 1);
  }
  ids_.reserve(size);
  for (size_t id = 0; id < d_.tokens.size(); ++id) {
    if (!d_.tokens[id].empty()) ids_.try_emplace(d_.tokens[id], static_cast<int32_t>(id));
  }
  d_.tokens.resize(size);
  bytes_.resize(size);
  special_.resize(size);
  added_.resize(size);
  return absl::OkStatus();
}

absl::Status BpeTokenizer::CheckIds() const {
  const auto out_of_range = [&](int32_t id) { return id < 0 || id >= vocab_size(); };
  if (d_.unknown >= 0 && out_of_range(d_.unknown)) {
    return absl::InvalidArgumentError(absl::StrCat("unknown token id ", d_.unknown, " is outside the vocabulary"));
  }
  if (d_.bos >= 0 && out_of_range(d_.bos)) {
    return absl::InvalidArgumentError(absl::StrCat("beginning-of-sequence id ", d_.bos, " is outside the vocabulary"));
  }
  for (const auto& merge : d_.merges) {
    if (out_of_range(merge.left) || out_of_range(merge.right) || out_of_range(merge.merged)) {
      return absl::InvalidArgumentError(
          absl::StrCat("merge of rank ", merge.rank, " names an id outside the vocabulary"));
    }
  }
  return absl::OkStatus();
}

// One id has one meaning. An added token that bytes of a text become, one alone or several by a merge, stands for these
// bytes, as any other token does. If its content is another text ("é", which spells the byte E9), that is not matched.
absl::Status BpeTokenizer::InitAdded() {
  std::vector<bool> merged(bytes_.size());
  for (const auto& merge : d_.merges) merged[merge.merged] = true;
  for (const AddedToken& token : d_.added) {
    if (token.content.empty()) continue;
    if (ValidUtf8Prefix(token.content) != token.content.size()) {
      return absl::InvalidArgumentError(absl::StrCat("added token with id ", token.id, " is not valid UTF-8"));
    }
    const auto [it, added] = ids_.try_emplace(token.content, token.id);
    std::string& name = d_.tokens[token.id];
    if (name.empty()) name = token.content;
    if (it->second != token.id || name != token.content) {
      return absl::InvalidArgumentError(absl::StrCat("added token \"", token.content, "\": id ", token.id,
                                                     " disagrees with the rest of the vocabulary"));
    }
    const std::string pattern = token.normalized ? Normalize(token.content, true) : token.content;
    if (pattern.size() > AddedTokenMatcher::kMaxContentBytes) {
      return absl::InvalidArgumentError(absl::StrCat("added token with id ", token.id, " is longer than ",
                                                     AddedTokenMatcher::kMaxContentBytes, " bytes"));
    }
    const std::optional<std::string> spelled = d_.byte_level ? UnspellBytes(token.content) : std::nullopt;
    const bool is_byte = spelled && spelled->size() == 1 && InText(static_cast<uint8_t>((*spelled)[0]));
    added_[token.id] = true;
    // Nothing else spells a byte, and text must not be lost.
    special_[token.id] = special_[token.id] || (token.special && !is_byte);
    const bool reached = is_byte || (spelled && merged[token.id] && !special_[token.id]);
    bytes_[token.id] = reached ? *spelled : pattern;  // a normalised token decodes to what it matched
    if (bytes_[token.id] == pattern) (token.normalized ? normalized_added_ : raw_added_).Add(pattern, token);
  }
  return absl::OkStatus();
}

void BpeTokenizer::InitBytes() {
  for (size_t id = 0; id < bytes_.size(); ++id) {
    if (!added_[id]) bytes_[id] = d_.tokens[id];
    if (d_.byte_level) {
      if (!added_[id]) bytes_[id] = UnspellBytes(bytes_[id]).value_or(bytes_[id]);
      continue;
    }
    const int byte = d_.decode_bytes ? FallbackByte(bytes_[id]) : -1;
    if (byte >= 0) bytes_[id] = std::string(1, static_cast<char>(byte));
    if (byte < 0 && d_.decode_space_marks) absl::StrReplaceAll({{kSpaceMark, " "}}, &bytes_[id]);
  }
  for (int byte = 0; byte < 256; ++byte) {
    const auto found = ids_.find(d_.byte_level ? Utf8Of(ByteCharacter(byte)) : absl::StrFormat("<0x%02X>", byte));
    byte_ids_[byte] = found != ids_.end() && !special_[found->second] ? found->second : -1;
  }
}

std::string BpeTokenizer::FirstTokenBytes(int32_t id) const {
  std::string bytes = TokenBytes(id);
  if (d_.strip == TokenizerDescription::kKeep) return bytes;
  size_t spaces = 0;
  while (spaces < bytes.size() && bytes[spaces] == ' ') {
    ++spaces;
    if (d_.strip == TokenizerDescription::kOneSpace) break;
  }
  return bytes.substr(spaces);
}

std::string BpeTokenizer::Decode(absl::Span<const int32_t> ids, bool skip_special) const {
  std::string bytes;
  bool first = true;
  for (const int32_t id : ids) {
    if (id < 0 || id >= vocab_size() || (skip_special && special_[id]) || bytes_[id].empty()) continue;
    bytes += first ? FirstTokenBytes(id) : bytes_[id];
    first = false;
  }
  std::string out;
  out.reserve(bytes.size());
  AppendLossyUtf8(bytes, /*final=*/true, out);
  return out;
}

absl::StatusOr<std::vector<int32_t>> BpeTokenizer::Run(Standing standing, absl::string_view text,
                                                       bool parse_special) const {
  const size_t valid = ValidUtf8Prefix(text);
  if (valid != text.size()) {
    return absl::InvalidArgumentError(absl::StrCat("text is not valid UTF-8 at byte ", valid, " of ", text.size()));
  }
  constexpr size_t kMaxTextBytes = size_t{1} << 30;  // symbols are counted in 32 bits
  if (text.size() > kMaxTextBytes) {
    return absl::InvalidArgumentError(absl::StrCat("text of ", text.size(), " bytes is longer than ", kMaxTextBytes));
  }
  std::vector<int32_t> out;
  Scratch scratch;
  std::vector<TextSection> sections, inner;
  raw_added_.Split(text, parse_special, sections);
  for (const TextSection& section : sections) {
    if (section.id >= 0) {
      out.push_back(section.id);
      standing = Standing::kAfterAdded;
      continue;
    }
    const std::string normalized = Normalize(section.text, standing != Standing::kAfterText);
    inner.clear();
    normalized_added_.Split(normalized, parse_special, inner);
    for (const TextSection& part : inner) {
      if (part.id >= 0) {
        out.push_back(part.id);
        standing = Standing::kAfterAdded;
      } else {
        EncodeText(standing, part.text, scratch, out);
        standing = Standing::kAfterText;
      }
    }
  }
  return out;
}

std::string BpeTokenizer::Normalize(absl::string_view text, bool prefix) const {
  std::string out(text);
  for (const NormalizeStep& step : d_.normalizer) {
    switch (step.kind) {
      case NormalizeStep::kCompose:
        out = ComposeCanonical(out);
        break;
      case NormalizeStep::kPrepend:
        if (prefix && !out.empty()) out.insert(0, step.to);
        break;
      case NormalizeStep::kReplace:
        out = absl::StrReplaceAll(out, {{step.from, step.to}});
        break;
    }
  }
  return out;
}

void BpeTokenizer::EncodeText(Standing standing, absl::string_view text, Scratch& scratch,
                              std::vector<int32_t>& out) const {
  std::deque<std::string> owned;  // pieces rewritten by a step
  auto& pieces = scratch.pieces;
  pieces.assign(1, text);
  for (const PieceStep& step : d_.pieces) {
    auto& next = scratch.next_pieces;
    next.clear();
    for (const absl::string_view piece : pieces) {
      switch (step.kind) {
        case PieceStep::kSplit:
          SplitText(step.pattern, piece, next);
          break;
        case PieceStep::kSpacePrefix:
          next.push_back(piece[0] == ' ' ? piece : absl::string_view(owned.emplace_back(absl::StrCat(" ", piece))));
          break;
        case PieceStep::kMetaspace: {
          std::string& marked = owned.emplace_back(absl::StrReplaceAll(piece, {{" ", kSpaceMark}}));
          const bool prefix = step.prefix == PieceStep::kAlways
                                  ? standing != Standing::kAfterText
                                  : step.prefix == PieceStep::kFirst && standing == Standing::kFirst;
          if (prefix && !absl::StartsWith(marked, kSpaceMark)) marked.insert(0, std::string(kSpaceMark));
          if (step.split_marks) {
            SplitAtMarks(marked, next);
          } else {
            next.push_back(marked);
          }
          break;
        }
      }
    }
    std::swap(pieces, next);
  }
  for (const absl::string_view word : pieces) EncodeWord(word, scratch, out);
}

void BpeTokenizer::EncodeWord(absl::string_view word, Scratch& scratch, std::vector<int32_t>& out) const {
  if (d_.ignore_merges) {
    absl::string_view spelled = word;
    if (d_.byte_level) {
      scratch.spelled.clear();
      for (const char c : word) AppendUtf8(ByteCharacter(static_cast<uint8_t>(c)), scratch.spelled);
      spelled = scratch.spelled;
    }
    const auto found = ids_.find(spelled);
    const bool means_it =
        found != ids_.end() && !special_[found->second] && (!d_.byte_level || bytes_[found->second] == word);
    if (means_it) {
      out.push_back(found->second);
      return;
    }
  }
  scratch.symbols.clear();
  if (d_.byte_level) {
    BytesToSymbols(word, scratch.symbols);
  } else {
    CharactersToSymbols(word, scratch.symbols);
  }
  merges_.Apply(scratch.symbols, scratch.merges, out);
}

// `open`: the previous symbol is an unknown one that this may join.
void BpeTokenizer::AppendUnknown(bool& open, std::vector<int32_t>& symbols) const {
  if (d_.unknown >= 0 && !(open && d_.fuse_unknown)) symbols.push_back(d_.unknown);
  open = true;
}

void BpeTokenizer::BytesToSymbols(absl::string_view word, std::vector<int32_t>& symbols) const {
  bool unknown_before = false;
  for (const char c : word) {
    const int32_t id = byte_ids_[static_cast<uint8_t>(c)];
    if (id < 0) {
      AppendUnknown(unknown_before, symbols);
    } else {
      symbols.push_back(id);
      unknown_before = false;
    }
  }
}

void BpeTokenizer::CharactersToSymbols(absl::string_view word, std::vector<int32_t>& symbols) const {
  bool unknown_before = false;
  for (size_t position = 0; position < word.size();) {
    const size_t start = position;
    NextCharacter(word, position);
    const absl::string_view character = word.substr(start, position - start);
    const auto found = ids_.find(character);
    if (found != ids_.end() && !special_[found->second]) {
      symbols.push_back(found->second);
      unknown_before = false;
      continue;
    }
    bool all_bytes = d_.byte_fallback;
    for (const char c : character) all_bytes = all_bytes && byte_ids_[static_cast<uint8_t>(c)] >= 0;
    if (!all_bytes) {
      AppendUnknown(unknown_before, symbols);
      continue;
    }
    for (const char c : character) symbols.push_back(byte_ids_[static_cast<uint8_t>(c)]);
    unknown_before = false;
  }
}

}  // namespace

char32_t ByteCharacter(uint8_t byte) {
  static const auto* const table = [] {
    auto* characters = new std::array<char32_t, 256>;
    char32_t next = kFirstSpelledByte;
    for (int b = 0; b < 256; ++b) (*characters)[b] = SpellsItself(b) ? static_cast<char32_t>(b) : next++;
    return characters;
  }();
  return (*table)[byte];
}

std::optional<std::string> UnspellBytes(absl::string_view spelled) {
  static const auto* const bytes = [] {
    auto* table = new std::array<int16_t, 0x200>;
    table->fill(-1);
    for (int b = 0; b < 256; ++b) (*table)[ByteCharacter(b)] = static_cast<int16_t>(b);
    return table;
  }();
  std::string out;
  for (size_t position = 0; position < spelled.size();) {
    const char32_t c = NextCharacter(spelled, position);
    if (c >= bytes->size() || (*bytes)[c] < 0) return std::nullopt;
    out += static_cast<char>((*bytes)[c]);
  }
  return out;
}

absl::StatusOr<std::unique_ptr<Tokenizer>> MakeBpeTokenizer(TokenizerDescription description) {
  auto tokenizer = std::make_unique<BpeTokenizer>();
  KVLINK_RETURN_IF_ERROR(tokenizer->Init(std::move(description)));
  return tokenizer;
}

}  // namespace kvlink::model
