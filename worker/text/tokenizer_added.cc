// Finds added tokens like the reference, and applies the conditions (whole word, stripping) that may reject a match.
#include "worker/text/tokenizer_added.h"

#include <algorithm>

#include "worker/text/unicode.h"

namespace kvlink::model {
namespace {

// Start of the character that ends at `end` > 0.
size_t PreviousCharacter(absl::string_view text, size_t end) {
  do {
    --end;
  } while (end > 0 && (static_cast<uint8_t>(text[end]) & 0xC0) == 0x80);
  return end;
}

bool EndsWithWord(absl::string_view text) {
  if (text.empty()) return false;
  size_t start = PreviousCharacter(text, text.size());
  return IsWord(NextCharacter(text, start));
}

bool StartsWithWord(absl::string_view text) {
  size_t position = 0;
  return !text.empty() && IsWord(NextCharacter(text, position));
}

// The start of the white space at the end of `text`, not before `from`.
size_t TrailingSpace(absl::string_view text, size_t from) {
  size_t start = text.size();
  while (start > from) {
    const size_t character = PreviousCharacter(text, start);
    size_t position = character;
    if (!IsSpace(NextCharacter(text, position))) break;
    start = character;
  }
  return start;
}

size_t LeadingSpace(absl::string_view text) {
  size_t end = 0;
  while (end < text.size()) {
    size_t position = end;
    if (!IsSpace(NextCharacter(text, position))) break;
    end = position;
  }
  return end;
}

}  // namespace

void AddedTokenMatcher::Add(absl::string_view pattern, const AddedToken& token) {
  if (pattern.empty()) return;
  starts_[static_cast<uint8_t>(pattern[0])] = true;
  int32_t node = 0;
  for (const char c : pattern) {
    const uint64_t edge = static_cast<uint64_t>(node) << 8 | static_cast<uint8_t>(c);
    const auto [it, added] = edges_.try_emplace(edge, static_cast<int32_t>(entry_of_node_.size()));
    if (added) entry_of_node_.push_back(-1);
    node = it->second;
  }
  if (entry_of_node_[node] >= 0) return;  // of two entries with the same text, the first counts
  entry_of_node_[node] = static_cast<int32_t>(entries_.size());
  entries_.push_back({token.id, token.special, token.single_word, token.lstrip, token.rstrip});
}

int32_t AddedTokenMatcher::Longest(absl::string_view text, size_t position, size_t& size) const {
  int32_t longest = -1, node = 0;
  for (size_t i = position; i < text.size(); ++i) {
    const auto edge = edges_.find(static_cast<uint64_t>(node) << 8 | static_cast<uint8_t>(text[i]));
    if (edge == edges_.end()) break;
    node = edge->second;
    if (entry_of_node_[node] < 0) continue;
    longest = entry_of_node_[node];
    size = i + 1 - position;
  }
  return longest;
}

void AddedTokenMatcher::Split(absl::string_view text, bool parse_special, std::vector<TextSection>& sections) const {
  size_t done = 0;  // end of the sections so far
  size_t position = 0;
  while (position < text.size()) {
    size_t size = 0;
    const int32_t index = starts_[static_cast<uint8_t>(text[position])] ? Longest(text, position, size) : -1;
    if (index < 0) {
      ++position;
      continue;
    }
    const Entry& entry = entries_[index];
    size_t start = position;
    size_t end = position + size;
    position = end;
    if (entry.special && !parse_special) continue;
    if (entry.single_word && (EndsWithWord(text.substr(0, start)) || StartsWithWord(text.substr(end)))) continue;
    if (entry.lstrip) start = std::max(TrailingSpace(text.substr(0, start), std::min(done, start)), done);
    if (entry.rstrip) end += LeadingSpace(text.substr(end));
    if (done < start) sections.push_back({text.substr(done, start - done), -1});
    sections.push_back({text.substr(std::min(start, end), end - std::min(start, end)), entry.id});
    done = std::max(done, end);
  }
  if (done < text.size()) sections.push_back({text.substr(done), -1});
}

}  // namespace kvlink::model
