// First the text is split into pieces that fit: paragraphs; sentences of paragraphs that are too long; runs of tokens
// of sentences that are too long. Then pieces are joined as long as they fit. The token counts of pieces do not add up
// exactly to that of their concatenation, so each part is tokenised again in its final form, and drops pieces while it
// is too long.
#include "worker/ingest/chunk.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "absl/strings/str_cat.h"
#include "base/status.h"

namespace kvlink::ingest {
namespace {

bool IsSpace(char c) { return c == ' ' || (c >= '\t' && c <= '\r'); }
bool IsContinuation(char c) { return (static_cast<unsigned char>(c) & 0xc0) == 0x80; }

// What ends at the end of a piece.
enum class End { kParagraph, kSentence, kNothing };

struct Range {
  size_t begin = 0;
  size_t end = 0;
};
struct Piece {
  Range range;
  int64_t tokens = 0;
  End ends = End::kNothing;
};

size_t SkipSpace(absl::string_view text, size_t at) {
  while (at < text.size() && IsSpace(text[at])) ++at;
  return at;
}

// The end of the paragraph that begins at `begin`, including the empty lines after it.
size_t ParagraphEnd(absl::string_view text, Range range) {
  for (size_t at = range.begin; at < range.end; ++at) {
    if (text[at] != '\n') continue;
    const size_t next = std::min(SkipSpace(text, at), range.end);
    if (std::count(text.begin() + at, text.begin() + next, '\n') < 2) continue;
    // White space before the next line belongs to that line.
    size_t end = next;
    while (next < range.end && end > at && text[end - 1] != '\n') --end;
    return end;
  }
  return range.end;
}

// The marks at a place, for example `?".`.
struct Marks {
  size_t bytes = 0;  // 0: there is none
  bool end = false;  // they end a sentence
};
Marks MarksAt(absl::string_view text, size_t at) {
  for (const absl::string_view mark : {"。", "！", "？"}) {
    if (text.substr(at, mark.size()) == mark) return {mark.size(), true};
  }
  if (text[at] != '.' && text[at] != '!' && text[at] != '?') return {};
  size_t end = at + 1;
  while (end < text.size() && absl::string_view(".!?\"')]").find(text[end]) != absl::string_view::npos) ++end;
  return {end - at, end == text.size() || IsSpace(text[end])};
}

// The end of the sentence or line that begins at `begin`, including the white space after it.
size_t SentenceEnd(absl::string_view text, Range range) {
  for (size_t at = range.begin; at < range.end;) {
    const Marks marks = MarksAt(text, at);
    if (marks.end) return std::min(SkipSpace(text, at + marks.bytes), range.end);
    if (text[at] == '\n') return at + 1;
    at += std::max<size_t>(marks.bytes, 1);  // a document may be one run of marks
  }
  return range.end;
}

class Cutter {
 public:
  Cutter(const model::Tokenizer& tokenizer, const link::LinkProfile& profile, int64_t limit, absl::string_view title,
         absl::string_view text)
      : tokenizer_(tokenizer), profile_(profile), limit_(limit), title_(title), text_(text) {}

  absl::StatusOr<std::vector<Chunk>> Cut() {
    KVLINK_ASSIGN_OR_RETURN(const auto around,
                            tokenizer_.Encode(link::DocumentText(profile_, title_, ""), /*parse_special=*/false));
    budget_ = limit_ - static_cast<int64_t>(around.size());
    if (2 * budget_ < limit_ || budget_ < 1) {
      return absl::InvalidArgumentError(absl::StrCat("title and template take ", around.size(), " of the ", limit_,
                                                     " tokens of a part; shorten the title, or raise --chunk-tokens"));
    }
    KVLINK_RETURN_IF_ERROR(TakeApart({0, text_.size()}, End::kParagraph, &ParagraphEnd, End::kParagraph));
    std::vector<Chunk> chunks;
    for (size_t next = 0; next < pieces_.size();) {
      KVLINK_ASSIGN_OR_RETURN(const size_t end, Join(next, &chunks));
      next = end;
    }
    if (chunks.empty()) return absl::InvalidArgumentError("the document is empty; remove it or give it text");
    return chunks;
  }

 private:
  using Finder = size_t (*)(absl::string_view text, Range range);

  absl::StatusOr<int64_t> Count(Range range) const {
    KVLINK_ASSIGN_OR_RETURN(const auto tokens,
                            tokenizer_.Encode(text_.substr(range.begin, range.end - range.begin), false));
    return static_cast<int64_t>(tokens.size());
  }

  // Splits a range into pieces; `find` returns the end of each. `last`: what ends with the range.
  absl::Status TakeApart(Range range, End each, Finder find, End last) {
    while (range.begin < range.end) {
      const Range one = {range.begin, find(text_, range)};
      range.begin = one.end;
      const End ends = one.end == range.end ? last : each;
      KVLINK_ASSIGN_OR_RETURN(const int64_t tokens, Count(one));
      if (tokens <= budget_) {
        pieces_.push_back({one, tokens, ends});
      } else if (each == End::kParagraph) {
        KVLINK_RETURN_IF_ERROR(TakeApart(one, End::kSentence, &SentenceEnd, ends));
      } else {
        KVLINK_RETURN_IF_ERROR(CutHard(one, budget_, ends, pieces_.end()));
      }
    }
    return absl::OkStatus();
  }

  // Inserts pieces of at most `most` tokens before `place`.
  absl::Status CutHard(Range range, int64_t most, End ends, std::vector<Piece>::iterator place) {
    std::vector<Piece> found;
    while (range.begin < range.end) {
      KVLINK_ASSIGN_OR_RETURN(const Piece piece, FirstOf(range, most));
      found.push_back(piece);
      range.begin = piece.range.end;
    }
    if (!found.empty()) found.back().ends = ends;
    pieces_.insert(place, found.begin(), found.end());
    return absl::OkStatus();
  }

  // The beginning of a range, with at most `most` tokens, or one character.
  absl::StatusOr<Piece> FirstOf(Range range, int64_t most) const {
    constexpr size_t kBytesPerToken = 16;  // how far it looks ahead
    Range seen = {range.begin, std::min(range.end, range.begin + kBytesPerToken * static_cast<size_t>(most) + 4)};
    seen.end = WholeCharacters(seen);
    const absl::string_view text = text_.substr(seen.begin, seen.end - seen.begin);
    KVLINK_ASSIGN_OR_RETURN(const auto tokens, tokenizer_.Encode(text, false));
    const int64_t count = static_cast<int64_t>(tokens.size());
    if (count <= most) return Piece{seen, count};
    Range cut = {range.begin, range.begin + BytesOf(tokens, most, text.size())};
    cut.end = WholeCharacters(cut);
    // Cut at white space if that keeps three quarters.
    size_t space = cut.end;
    while (space > cut.begin && !IsSpace(text_[space - 1])) --space;
    if (4 * (space - cut.begin) >= 3 * (cut.end - cut.begin)) cut.end = space;
    KVLINK_ASSIGN_OR_RETURN(const int64_t left, Count(cut));
    return Piece{cut, left};
  }

  // The number of bytes of the first `most` of `tokens`, which cover `bytes` bytes.
  size_t BytesOf(const std::vector<int32_t>& tokens, int64_t most, size_t bytes) const {
    size_t all = 0, first = 0;
    for (size_t i = 0; i < tokens.size(); ++i) {
      all += i == 0 ? tokenizer_.FirstTokenBytes(tokens[i]).size() : tokenizer_.TokenBytes(tokens[i]).size();
      if (static_cast<int64_t>(i) + 1 == most) first = all;
    }
    // If the tokenizer changes the text, estimate proportionally.
    return all == bytes ? first : bytes * static_cast<size_t>(most) / tokens.size();
  }

  // The end of the last whole character of the range, which includes at least one.
  size_t WholeCharacters(Range range) const {
    size_t end = range.end;
    while (end > range.begin && end < text_.size() && IsContinuation(text_[end])) --end;
    if (end > range.begin) return end;
    end = range.begin + 1;
    while (end < text_.size() && IsContinuation(text_[end])) ++end;
    return end;
  }

  // Makes a part of the pieces from `first` on; returns the index of the next piece.
  absl::StatusOr<size_t> Join(size_t first, std::vector<Chunk>* chunks) {
    size_t end = first;
    int64_t tokens = 0;
    while (end < pieces_.size() && (end == first || tokens + pieces_[end].tokens <= budget_)) {
      tokens += pieces_[end++].tokens;
    }
    if (end < pieces_.size()) end = GoodEnd(first, end);
    for (;;) {
      const Range range = Trimmed({pieces_[first].range.begin, pieces_[end - 1].range.end});
      if (range.begin == range.end) return end;
      KVLINK_ASSIGN_OR_RETURN(
          auto part,
          tokenizer_.Encode(link::DocumentText(profile_, title_, text_.substr(range.begin, range.end - range.begin)),
                            /*parse_special=*/false));
      if (static_cast<int64_t>(part.size()) <= limit_) {
        chunks->push_back({std::move(part), range.begin, range.end});
        return end;
      }
      if (end - first > 1) {
        --end;
        continue;
      }
      // A single piece whose tokens, together with the template, exceed the sum of both.
      const Piece whole = pieces_[first];
      if (whole.tokens < 2) {
        return absl::InvalidArgumentError(
            absl::StrCat("parts of ", limit_, " tokens have no room for a character; raise --chunk-tokens"));
      }
      pieces_.erase(pieces_.begin() + static_cast<std::ptrdiff_t>(first));
      KVLINK_RETURN_IF_ERROR(
          CutHard(whole.range, whole.tokens / 2, whole.ends, pieces_.begin() + static_cast<std::ptrdiff_t>(first)));
    }
  }

  // The position after the last piece of [first, end) that ends a paragraph, or else a sentence, with the part half
  // full.
  size_t GoodEnd(size_t first, size_t end) const {
    for (const End wanted : {End::kParagraph, End::kSentence}) {
      int64_t tokens = 0;
      std::optional<size_t> best;
      for (size_t i = first; i < end; ++i) {
        tokens += pieces_[i].tokens;
        if (pieces_[i].ends <= wanted && 2 * tokens >= budget_) best = i + 1;
      }
      if (best) return *best;
    }
    return end;
  }

  Range Trimmed(Range range) const {
    while (range.end > range.begin && IsSpace(text_[range.end - 1])) --range.end;
    return range;
  }

  const model::Tokenizer& tokenizer_;
  const link::LinkProfile& profile_;
  const int64_t limit_;
  const absl::string_view title_;
  const absl::string_view text_;
  int64_t budget_ = 0;  // tokens of text in a part
  std::vector<Piece> pieces_;
};

}  // namespace

absl::StatusOr<ChunkLimits> ChunkLimitsOf(int64_t chunk_tokens, int64_t context) {
  if (chunk_tokens == 0) return ChunkLimits{context, std::max<int64_t>(1, context / 2)};
  if (chunk_tokens > 0 && chunk_tokens <= context) return ChunkLimits{chunk_tokens, chunk_tokens};
  return absl::InvalidArgumentError(
      absl::StrCat("--chunk-tokens is ", chunk_tokens, ", but the model's context has room for ", context));
}

absl::StatusOr<std::vector<Chunk>> CutDocument(const model::Tokenizer& tokenizer, const link::LinkProfile& profile,
                                               const ChunkLimits& limits, absl::string_view title,
                                               absl::string_view text) {
  KVLINK_ASSIGN_OR_RETURN(auto tokens,
                          tokenizer.Encode(link::DocumentText(profile, title, text), /*parse_special=*/false));
  if (tokens.empty()) return absl::InvalidArgumentError("the document has no tokens; remove it or give it text");
  std::vector<Chunk> chunks;
  if (static_cast<int64_t>(tokens.size()) <= limits.document) {
    chunks.push_back({std::move(tokens), 0, text.size()});
    return chunks;
  }
  return Cutter(tokenizer, profile, limits.part, title, text).Cut();
}

}  // namespace kvlink::ingest
