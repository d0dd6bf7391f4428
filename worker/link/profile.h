// A link profile: how documents are placed in a prompt for one family of models, and which link tokens (if any) the
// family was tuned with. A JSON file; docs/formats.md "Link profile". Thread-safety: plain values and pure functions.
#ifndef KVLINK_WORKER_LINK_PROFILE_H_
#define KVLINK_WORKER_LINK_PROFILE_H_

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "worker/files/config.h"
#include "worker/link/linker.h"

namespace kvlink::link {

// Trained soft tokens that documents are encoded inside: `header` of them before a document's own tokens, `trailer`
// after them, at least one in all. Rows of the tensors "wrapper_header" [header, hidden] and "wrapper_trailer"
// [trailer, hidden] in a safetensors file.
struct WrapperFile {
  std::string file;  // relative to the profile
  int64_t header = 0;
  int64_t trailer = 0;
};

struct LinkProfile {
  std::string name;
  // Whether the model was trained with these link tokens. The linker `links` requires it.
  bool trained = false;
  int64_t links_per_document = 0;  // N: 0, 1, 5, ...
  int64_t slots = 0;               // maximum number of documents in a prompt with links; 0: no limit (N == 0)
  // Source of the link embeddings: ordinary vocabulary ids (link j of slot i is first_link_id + i * N + j), or rows of
  // a matrix [slots * N, hidden] in a safetensors file (tensor "link_embeddings"). Exactly one is set when N > 0.
  std::optional<int32_t> first_link_id;
  std::string link_embeddings_file;    // relative to the profile
  std::optional<WrapperFile> wrapper;  // the linker `packet` requires it
  Linker linker;                       // of requests that name none
  std::optional<int32_t> mem_start;
  std::optional<int32_t> mem_end;
  // Text of a document; {title} and {text} are replaced. It never contains an ordinal, because an encoding must not
  // depend on its slot.
  std::string document_template = "Title: {title}\n{text}\n";
  enum class Place { kAfterSystem, kInUser } place = Place::kInUser;
};

// INVALID_ARGUMENT naming the field. The files it names are relative to `directory`.
absl::StatusOr<LinkProfile> ParseLinkProfile(absl::string_view json, absl::string_view directory);
// `name_or_path`: a shipped profile ("untuned", "kvlink-llama-1", "kvlink-llama-5": the authors' checkpoints) or a JSON
// file.
absl::StatusOr<LinkProfile> LoadLinkProfile(const std::string& name_or_path);
// INVALID_ARGUMENT if ids do not fit the model's vocabulary.
absl::Status CheckProfile(const LinkProfile& profile, const model::ModelConfig& config);
// The profile's embedding matrix [slots * N, hidden]; empty if it has none. Errors of ReadEmbeddings
// (link_embeddings.h).
absl::StatusOr<std::vector<float>> LoadLinkEmbeddings(const LinkProfile& profile, const model::ModelConfig& config);

// The text of a document under the profile's template. With an empty title, the template's title line is omitted.
std::string DocumentText(const LinkProfile& profile, absl::string_view title, absl::string_view text);

}  // namespace kvlink::link

#endif  // KVLINK_WORKER_LINK_PROFILE_H_
