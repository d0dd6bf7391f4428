#include "worker/train/output.h"

#include <filesystem>
#include <optional>

#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "nlohmann/json.hpp"
#include "worker/files/hf_config.h"
#include "worker/files/mapped_file.h"
#include "worker/link/linker.h"

namespace kvlink::train {
namespace {

using OrderedJson = nlohmann::ordered_json;

constexpr int64_t kMaxTokenizerBytes = int64_t{256} << 20;
// What belongs to a tokenizer or to generation, as far as it is there.
constexpr const char* kCopied[] = {
    "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",  "vocab.json",
    "merges.txt",     "tokenizer.model",       "generation_config.json",  "chat_template.jinja"};

const NamedTensor* Find(absl::Span<const NamedTensor> tensors, absl::string_view name) {
  for (const NamedTensor& tensor : tensors) {
    if (tensor.name == name) return &tensor;
  }
  return nullptr;
}

// The last part of a path; of "tuned/" and "tuned/." it is "tuned".
std::string NameOf(const std::string& directory) {
  std::error_code error;
  std::filesystem::path path = std::filesystem::absolute(directory, error).lexically_normal();
  if (!path.has_filename()) path = path.parent_path();
  return path.has_filename() ? path.filename().string() : "tuned";
}

absl::Status WriteTensors(const std::string& path, const std::vector<const NamedTensor*>& tensors) {
  std::vector<TensorWriter::Entry> entries;
  for (const NamedTensor* tensor : tensors) entries.push_back({tensor->name, tensor->shape});
  KVLINK_ASSIGN_OR_RETURN(TensorWriter writer, TensorWriter::Create(path, entries, /*bf16=*/false));
  for (const NamedTensor* tensor : tensors) KVLINK_RETURN_IF_ERROR(writer.Add(*tensor));
  return writer.Commit();
}

}  // namespace

absl::Status WriteProfile(const std::string& directory, const std::string& name, const link::LinkProfile& base,
                          const Settings& settings, absl::Span<const NamedTensor> trained) {
  const NamedTensor* const links = Find(trained, "link_embeddings");
  const NamedTensor* const header = Find(trained, "wrapper_header");
  const NamedTensor* const trailer = Find(trained, "wrapper_trailer");
  OrderedJson json = {{"name", name.empty() ? NameOf(directory) : name}};
  if (links != nullptr) {
    KVLINK_RETURN_IF_ERROR(WriteTensors(directory + "/link_embeddings.safetensors", {links}));
    json["trained"] = true;
    json["links_per_document"] = settings.embeddings.links;
    json["slots"] = settings.embeddings.slots;
    json["link_embeddings_file"] = "link_embeddings.safetensors";
  }
  if (header != nullptr || trailer != nullptr) {
    std::vector<const NamedTensor*> tensors;
    if (header != nullptr) tensors.push_back(header);
    if (trailer != nullptr) tensors.push_back(trailer);
    KVLINK_RETURN_IF_ERROR(WriteTensors(directory + "/wrapper.safetensors", tensors));
    json["wrapper"] = {{"file", "wrapper.safetensors"},
                       {"header", settings.embeddings.header},
                       {"trailer", settings.embeddings.trailer}};
  }
  link::Linker linker;
  linker.base = links != nullptr ? link::Linker::kLinks : link::Linker::kConcat;
  linker.packet = json.contains("wrapper");
  json["linker"] = link::LinkerName(linker);
  if (base.mem_start) json["mem_start"] = *base.mem_start;
  if (base.mem_end) json["mem_end"] = *base.mem_end;
  json["document_template"] = base.document_template;
  json["place"] = base.place == link::LinkProfile::Place::kAfterSystem ? "after-system" : "in-user";
  // Last: a profile never names files that are not there.
  // A name from the command line may be no UTF-8.
  return WriteDurably(directory + "/profile.json",
                      json.dump(2, ' ', false, OrderedJson::error_handler_t::replace) + "\n");
}

absl::StatusOr<std::string> MergedConfig(const std::string& source, bool bf16) {
  KVLINK_ASSIGN_OR_RETURN(const std::string text,
                          model::ReadSmallFile(source + "/config.json", model::kMaxConfigBytes));
  // What lies deeper than any configuration is left out, since this kind of JSON is copied by recursion.
  const auto shallow = [](int depth, OrderedJson::parse_event_t, OrderedJson&) { return depth < 32; };
  OrderedJson config = OrderedJson::parse(model::QuoteNonFinite(text), shallow, /*allow_exceptions=*/false);
  if (!config.is_object()) return absl::InvalidArgumentError(absl::StrCat(source, "/config.json: not a JSON object"));
  config.erase("dtype");
  config.erase("quantization_config");
  config["torch_dtype"] = bf16 ? "bfloat16" : "float32";
  return model::UnquoteNonFinite(config.dump(2)) + "\n";
}

absl::Status WriteModel(const std::string& directory, const std::string& source, bool bf16, Learner& learner) {
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  if (error) return absl::UnavailableError(absl::StrCat(directory, ": ", error.message()));
  KVLINK_ASSIGN_OR_RETURN(const std::string config, MergedConfig(source, bf16));
  for (const char* name : kCopied) {
    const auto bytes = model::ReadSmallFile(absl::StrCat(source, "/", name), kMaxTokenizerBytes);
    if (absl::IsNotFound(bytes.status())) continue;
    KVLINK_RETURN_IF_ERROR(bytes.status());
    KVLINK_RETURN_IF_ERROR(WriteDurably(absl::StrCat(directory, "/", name), *bytes));
  }
  KVLINK_ASSIGN_OR_RETURN(TensorWriter writer,
                          TensorWriter::Create(directory + "/model.safetensors", learner.Parameters(), bf16));
  KVLINK_RETURN_IF_ERROR(learner.ForEachParameter([&writer](const NamedTensor& tensor) { return writer.Add(tensor); }));
  KVLINK_RETURN_IF_ERROR(writer.Commit());
  return WriteDurably(directory + "/config.json", config);
}

}  // namespace kvlink::train
