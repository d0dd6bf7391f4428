// A link profile: how documents are put into a prompt for one family of models, and which link tokens (if any) it was
// tuned with. A JSON file; docs/formats.md "Link profile". Thread-safety: plain values and pure functions.
#ifndef KVLINK_WORKER_LINK_PROFILE_H_
#define KVLINK_WORKER_LINK_PROFILE_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "worker/files/config.h"

namespace kvlink::link {

struct LinkProfile {
  std::string name;
  // True if the model this profile is for was trained with its link tokens. `links` is refused otherwise.
  bool trained = false;
  int64_t links_per_document = 0;  // N: 0, 1, 5, ...
  int64_t slots = 0;               // most documents in a prompt with links; 0: no limit (N == 0)
  // Where link embeddings come from: ordinary vocabulary ids (link j of slot i is first_link_id + i * N + j), or rows
  // of an embedding matrix [slots * N, hidden] in a safetensors file (tensor "link_embeddings"). One of them when N >
  // 0.
  std::optional<int32_t> first_link_id;
  std::string link_embeddings_file;  // relative to the profile
  std::optional<int32_t> mem_start;
  std::optional<int32_t> mem_end;
  // Text of a document; {title} and {text} stand for its parts. Never holds an ordinal: an encoding must not depend on
  // its slot.
  std::string document_template = "Title: {title}\n{text}\n";
  enum class Place { kAfterSystem, kInUser } place = Place::kInUser;
};

// INVALID_ARGUMENT naming the field. `directory`: what link_embeddings_file is relative to.
absl::StatusOr<LinkProfile> ParseLinkProfile(absl::string_view json, absl::string_view directory);
// `name_or_path`: a shipped profile ("untuned", "kvlink-llama-1", "kvlink-llama-5": the authors' checkpoints) or a JSON
// file.
absl::StatusOr<LinkProfile> LoadLinkProfile(const std::string& name_or_path);
// INVALID_ARGUMENT if ids do not fit the model's vocabulary.
absl::Status CheckProfile(const LinkProfile& profile, const model::ModelConfig& config);
// The profile's embedding matrix [slots * N, hidden]; empty if it has none. INVALID_ARGUMENT if the file's tensor is of
// another shape, UNIMPLEMENTED for one that is not F32, F16 or BF16.
absl::StatusOr<std::vector<float>> LoadLinkEmbeddings(const LinkProfile& profile, const model::ModelConfig& config);

// The text of one document under the profile's template. An empty title gives the template without its title line.
std::string DocumentText(const LinkProfile& profile, absl::string_view title, absl::string_view text);

}  // namespace kvlink::link

#endif  // KVLINK_WORKER_LINK_PROFILE_H_
