// Added tokens: texts that become one token wherever they occur, before any other splitting.
//
// Thread-safety: immutable once built.
#ifndef KVLINK_WORKER_TEXT_TOKENIZER_ADDED_H_
#define KVLINK_WORKER_TEXT_TOKENIZER_ADDED_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/strings/string_view.h"

namespace kvlink::model {

// One entry of "added_tokens" in a tokenizer.json; the flags have the meaning of Hugging Face's tokenizers.
struct AddedToken {
  std::string content;
  int32_t id = -1;
  bool special = false;      // matched only where control tokens are recognised
  bool single_word = false;  // not directly beside a word character
  bool lstrip = false;       // includes white space before it
  bool rstrip = false;       // includes white space after it
  bool normalized = false;   // matched in the normalised text
};

// A section of a text: a token found in it, or (id < 0) non-empty text between tokens.
struct TextSection {
  absl::string_view text;
  int32_t id = -1;
};

class AddedTokenMatcher {
 public:
  static constexpr size_t kMaxContentBytes = 1024;

  // Matches `token` by `pattern`: its content, normalised if the token says so. An empty pattern never matches.
  // REQUIRES: pattern.size() <= kMaxContentBytes.
  void Add(absl::string_view pattern, const AddedToken& token);
  bool empty() const { return entries_.empty(); }

  // Appends the sections of `text` (valid UTF-8) in order: the leftmost match, of these the longest, then onwards from
  // its end. Without `parse_special`, a special token stays part of the text, but matching still resumes after it.
  void Split(absl::string_view text, bool parse_special, std::vector<TextSection>& sections) const;

 private:
  struct Entry {
    int32_t id;
    bool special, single_word, lstrip, rstrip;
  };
  // Returns the longest entry at `position`, or -1, and its length in `size`.
  int32_t Longest(absl::string_view text, size_t position, size_t& size) const;

  std::vector<Entry> entries_;
  // A trie over bytes: node 0 is the root, (node << 8 | byte) an edge. An entry ends at a node.
  absl::flat_hash_map<uint64_t, int32_t> edges_;
  std::vector<int32_t> entry_of_node_ = {-1};
  bool starts_[256] = {};
};

}  // namespace kvlink::model

#endif  // KVLINK_WORKER_TEXT_TOKENIZER_ADDED_H_
