// Tokens are sorted by their bytes. A node is made for each byte that a token does not share with the one before it, so
// nodes come in the order in which a search visits them, and a subtree that is ruled out is passed over by one jump.
#include "worker/grammar/vocabulary.h"

#include <algorithm>
#include <utility>

namespace kvlink::grammar {
Vocabulary::Vocabulary(const model::Tokenizer& tokenizer) : tokenizer_(tokenizer), size_(tokenizer.vocab_size()) {
  std::vector<std::pair<std::string, int32_t>> sorted;
  for (int32_t token = 0; token < size_; ++token) {
    std::string bytes = Bytes(token);
    if (!bytes.empty()) sorted.push_back({std::move(bytes), token});
  }
  std::sort(sorted.begin(), sorted.end());
  nodes_.push_back({});
  std::vector<uint32_t> path = {0};  // nodes from the root
  const auto close = [&](size_t length) {
    for (; path.size() > length; path.pop_back()) nodes_[path.back()].end = static_cast<uint32_t>(nodes_.size());
  };
  std::string before;
  for (const auto& [bytes, token] : sorted) {
    const auto differ = std::mismatch(bytes.begin(), bytes.end(), before.begin(), before.end());
    const auto shared = static_cast<size_t>(differ.first - bytes.begin());
    close(shared + 1);
    for (size_t i = shared; i < bytes.size(); ++i) {
      Node node;
      node.tokens = static_cast<uint32_t>(tokens_.size());
      node.depth = static_cast<uint16_t>(i + 1);
      node.byte = static_cast<uint8_t>(bytes[i]);
      path.push_back(static_cast<uint32_t>(nodes_.size()));
      nodes_.push_back(node);
    }
    tokens_.push_back(token);
    before = bytes;
  }
  close(0);
  Node behind;
  behind.tokens = static_cast<uint32_t>(tokens_.size());
  nodes_.push_back(behind);
  for (uint32_t i = 1; i < nodes(); i = nodes_[i].end) bytes_[nodes_[i].byte] = !tokens(i).empty();
}

std::string Vocabulary::Bytes(int32_t token) const {
  if (tokenizer_.IsSpecial(token)) return "";
  std::string bytes = tokenizer_.TokenBytes(token);
  if (bytes.size() > kMaxTokenBytes) bytes.clear();
  return bytes;
}

}  // namespace kvlink::grammar
