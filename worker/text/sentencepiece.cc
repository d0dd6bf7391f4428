// Turns SentencePiece's scores into BPE merges: each piece that two others make up is a merge ranked by its score, so
// that one merging algorithm serves both kinds of vocabulary.
#include "worker/text/sentencepiece.h"

#include <algorithm>
#include <cmath>
#include <functional>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "base/utf8.h"

namespace kvlink::model {
namespace {

// No published vocabulary has longer pieces (SentencePiece's own limit defaults to 16 characters), and cutting takes
// quadratic time.
constexpr size_t kMaxPieceBytes = 1024;

// Rank of each score: 0 for the highest.
absl::StatusOr<std::vector<int32_t>> Ranks(absl::Span<const float> scores) {
  std::vector<float> distinct(scores.begin(), scores.end());
  for (const float score : distinct) {
    if (std::isnan(score)) return absl::InvalidArgumentError("a score of the vocabulary is not a number");
  }
  std::sort(distinct.begin(), distinct.end(), std::greater<float>());
  distinct.erase(std::unique(distinct.begin(), distinct.end()), distinct.end());
  std::vector<int32_t> ranks;
  ranks.reserve(scores.size());
  for (const float score : scores) {
    ranks.push_back(std::lower_bound(distinct.begin(), distinct.end(), score, std::greater<float>()) -
                    distinct.begin());
  }
  return ranks;
}

}  // namespace

absl::StatusOr<std::vector<TokenizerDescription::Merge>> MergesFromScores(absl::Span<const std::string> pieces,
                                                                          absl::Span<const float> scores,
                                                                          absl::Span<const int32_t> types) {
  KVLINK_ASSIGN_OR_RETURN(const std::vector<int32_t> ranks, Ranks(scores));
  const auto mergeable = [&](size_t id) { return types[id] == kNormal || types[id] == kUnused; };
  absl::flat_hash_map<absl::string_view, int32_t> ids;
  for (size_t id = 0; id < pieces.size(); ++id) {
    if (mergeable(id)) ids.try_emplace(pieces[id], static_cast<int32_t>(id));
  }
  std::vector<TokenizerDescription::Merge> merges;
  for (size_t id = 0; id < pieces.size(); ++id) {
    const absl::string_view piece = pieces[id];
    if (!mergeable(id) || piece.empty() || ids[piece] != static_cast<int32_t>(id)) continue;
    if (piece.size() > kMaxPieceBytes)
      return absl::InvalidArgumentError(
          absl::StrCat("piece ", id, " has ", piece.size(), " bytes, more than ", kMaxPieceBytes));
    size_t cut = 0;
    for (NextCharacter(piece, cut); cut < piece.size(); NextCharacter(piece, cut)) {
      const auto left = ids.find(piece.substr(0, cut));
      const auto right = ids.find(piece.substr(cut));
      if (left == ids.end() || right == ids.end()) continue;
      if (types[id] == kUnused)
        return absl::UnimplementedError(
            absl::StrCat("the unused piece \"", piece, "\" (id ", id, ") is not supported"));
      merges.push_back({left->second, right->second, ranks[id], static_cast<int32_t>(id)});
    }
  }
  return merges;
}

}  // namespace kvlink::model
