// A needle is a sentence about an invented town, so that no model knows its answer. The wrong candidates are other
// numbers: they stand nowhere, and guessing reaches one in as many as there are.
#include "worker/data/passages.h"

#include <algorithm>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/status.h"
#include "worker/data/language.h"

namespace kvlink::data {
namespace {

constexpr size_t kReadBytes = 64 << 10;
constexpr size_t kWrongNumbers = 7;
constexpr size_t kMinNumber = 10000, kNumbers = 90000;  // of five digits
constexpr int kMaxTries = 100;                          // to draw something of one length
constexpr absl::string_view kEnds[] = {"\n\n", "\n", ". ", "! ", "? ", " "};
constexpr size_t kMaxCharacterBytes = 4;  // of UTF-8

bool IsContinuation(char c) { return (static_cast<unsigned char>(c) & 0xc0) == 0x80; }

// What `draw` returns that does not stand in the passage. Where everything does, such as in a table of numbers, it
// becomes longer.
template <typename Draw>
std::string Fresh(absl::string_view passage, absl::string_view joint, const Draw& draw) {
  std::string before;
  for (int tries = 1;; ++tries) {
    std::string fresh = absl::StrCat(before, draw());
    if (!absl::StrContains(passage, fresh)) return fresh;
    if (tries % kMaxTries == 0) before = absl::StrCat(fresh, joint);
  }
}

std::string FreshNumber(absl::string_view passage, Random& random) {
  return Fresh(passage, "", [&random] { return kMinNumber + random.Below(kNumbers); });
}

std::string FreshTown(absl::string_view passage, Random& random) {
  return Fresh(passage, "-", [&random] {
    std::string town;
    for (const auto& choices : LanguageOf(Split::kTest).town) absl::StrAppend(&town, random.Pick(choices));
    return town;
  });
}

// The beginning of the sentence that holds the byte at `offset`; text.size() if that is the end.
size_t SentenceAt(absl::string_view text, size_t offset) {
  if (offset >= text.size()) return text.size();
  size_t begin = 0;
  for (const absl::string_view end : {"\n", ". ", "! ", "? "}) {
    const size_t found = text.substr(0, offset).rfind(end);
    if (found != absl::string_view::npos) begin = std::max(begin, found + end.size());
  }
  return begin;
}

}  // namespace

size_t CutBefore(absl::string_view text, size_t max_bytes) {
  if (text.size() <= max_bytes) return text.size();
  const absl::string_view first = text.substr(0, max_bytes);
  for (const absl::string_view end : kEnds) {
    const size_t found = first.rfind(end);
    if (found != absl::string_view::npos && found + end.size() > max_bytes / 2) return found + end.size();
  }
  size_t cut = max_bytes;
  while (cut > 0 && IsContinuation(text[cut])) --cut;
  if (cut > 0) return cut;
  cut = max_bytes;
  while (cut < std::min(text.size(), kMaxCharacterBytes) && IsContinuation(text[cut])) ++cut;
  return cut;
}

absl::StatusOr<std::optional<Passages::Passage>> Passages::Next() {
  for (;;) {
    while (!ended_ && pending_.size() <= max_bytes_) {
      const size_t have = pending_.size();
      pending_.resize(have + kReadBytes);
      const auto read = stream_->Read(absl::MakeSpan(&pending_[have], kReadBytes));
      pending_.resize(have + read.value_or(0));
      KVLINK_RETURN_IF_ERROR(read.status());
      ended_ = *read == 0;
    }
    if (pending_.empty()) return std::optional<Passage>();
    const size_t cut = CutBefore(pending_, max_bytes_);
    const absl::string_view whole = absl::string_view(pending_).substr(0, cut);
    const absl::string_view stripped = absl::StripAsciiWhitespace(whole);
    Passage passage{std::string(stripped), offset_ + (stripped.data() - whole.data())};
    pending_.erase(0, cut);
    offset_ += static_cast<int64_t>(cut);
    if (!passage.text.empty()) return std::optional<Passage>(std::move(passage));
  }
}

Question NeedleQuestion(absl::string_view passage, int64_t depth, int64_t documents, Random& random) {
  const std::string town = FreshTown(passage, random);
  const std::string number = FreshNumber(passage, random);
  Question question;
  question.question = absl::StrCat("What is the vault code of ", town, "?");
  question.stem = absl::StrCat("The vault code of ", town, " is");
  question.answers = {number};
  question.candidates = {number};
  while (question.candidates.size() <= kWrongNumbers) {
    std::string wrong = FreshNumber(passage, random);
    if (std::find(question.candidates.begin(), question.candidates.end(), wrong) == question.candidates.end()) {
      question.candidates.push_back(std::move(wrong));
    }
  }
  const std::string needle = absl::StrCat(question.stem, " ", number, ".");
  const size_t place = passage.size() * static_cast<size_t>(depth) / 100;
  size_t begin = 0;
  for (int64_t left = documents; left > 0 && begin < passage.size(); --left) {
    const absl::string_view rest = passage.substr(begin);
    const size_t cut = left == 1 ? rest.size() : CutBefore(rest, rest.size() / static_cast<size_t>(left) + 1);
    std::string text(rest.substr(0, cut));
    const bool last = begin + cut == passage.size();
    if (question.gold.empty() && (place < begin + cut || last)) {
      const size_t at = SentenceAt(text, place - begin);
      text.insert(at, at == text.size() ? absl::StrCat(" ", needle) : absl::StrCat(needle, " "));
      question.gold = {static_cast<int64_t>(question.documents.size())};
    }
    const absl::string_view stripped = absl::StripAsciiWhitespace(text);
    if (!stripped.empty()) question.documents.push_back({"", std::string(stripped)});
    begin += cut;
  }
  return question;
}

}  // namespace kvlink::data
