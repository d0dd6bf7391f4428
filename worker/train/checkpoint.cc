#include "worker/train/checkpoint.h"

#include <algorithm>
#include <utility>

#include "absl/algorithm/container.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "base/checksum.h"
#include "base/little_endian.h"
#include "base/status.h"
#include "nlohmann/json.hpp"
#include "worker/files/mapped_file.h"

namespace kvlink::train {
namespace {

using Json = nlohmann::json;

constexpr absl::string_view kMagic = "KVTC";
constexpr uint8_t kMajor = 1, kMinor = 0;
constexpr size_t kHeaderBytes = 24;
constexpr uint64_t kMaxCount = uint64_t{1} << 32;  // of steps and examples
constexpr absl::string_view kNote = "run";
constexpr absl::string_view kChosen = "chosen.";
// Of a run. A checkpoint without them is of a build that did not compare them.
constexpr absl::string_view kLater[] = {"weights", "tokenizer", "chat_template", "marks", "cut"};

Json OptionalNumber(const std::optional<double>& value) { return value ? Json(*value) : Json(nullptr); }

std::string Note(const Checkpoint& checkpoint) {
  const Json json = {{"run", checkpoint.run},
                     {"step", checkpoint.step},
                     {"drawn", checkpoint.drawn},
                     {"begun", OptionalNumber(checkpoint.begun)},
                     {"recent", OptionalNumber(checkpoint.recent)},
                     {"measured", checkpoint.measured ? Json(*checkpoint.measured) : Json(nullptr)},
                     {"best", OptionalNumber(checkpoint.best)},
                     {"best_step", checkpoint.best_step},
                     {"worse", checkpoint.worse}};
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

absl::Status ParseNote(absl::string_view note, Checkpoint* checkpoint) {
  const Json json = Json::parse(note.begin(), note.end(), nullptr, /*allow_exceptions=*/false);
  if (!json.is_object() || !json.contains("run") || !json["run"].is_object()) {
    return absl::InvalidArgumentError("its 'run' is no JSON object");
  }
  for (const auto& [name, value] : json["run"].items()) {
    if (!value.is_string()) return absl::InvalidArgumentError(absl::StrCat("its setting '", name, "' is no text"));
    checkpoint->run[name] = value.get<std::string>();
  }
  const auto take = [](const Json& json, int64_t* out) {
    if (!json.is_number_unsigned() || json.get<uint64_t>() > kMaxCount) return false;
    *out = json.get<int64_t>();
    return true;
  };
  for (const auto& [name, out] : {std::pair("step", &checkpoint->step),
                                  {"drawn", &checkpoint->drawn},
                                  {"best_step", &checkpoint->best_step},
                                  {"worse", &checkpoint->worse}}) {
    const auto it = json.find(name);
    if (it == json.end() || !take(*it, out)) {
      return absl::InvalidArgumentError(absl::StrCat("its '", name, "' is no number"));
    }
  }
  for (const auto& [name, out] :
       {std::pair("begun", &checkpoint->begun), {"recent", &checkpoint->recent}, {"best", &checkpoint->best}}) {
    const auto it = json.find(name);
    if (it == json.end() || !(it->is_null() || it->is_number())) {
      return absl::InvalidArgumentError(absl::StrCat("its '", name, "' is no number"));
    }
    if (it->is_number()) *out = it->get<double>();
  }
  // Builds before "measured" wrote no checkpoint at a step whose measurement was missing.
  const auto measured = json.find("measured");
  if (measured == json.end()) {
    checkpoint->measured = checkpoint->step;
  } else if (!measured->is_null() && !take(*measured, &checkpoint->measured.emplace())) {
    return absl::InvalidArgumentError("its 'measured' is no number");
  }
  return absl::OkStatus();
}

}  // namespace

std::string EncodeCheckpoint(const Checkpoint& checkpoint) {
  std::string bytes(kHeaderBytes, '\0');
  AppendTensors({{"", checkpoint.state}, {kChosen, checkpoint.chosen}}, kNote, Note(checkpoint), &bytes);
  const absl::string_view payload = absl::string_view(bytes).substr(kHeaderBytes);
  std::string header(kMagic);
  AppendField(kMajor, &header);
  AppendField(kMinor, &header);
  AppendField(uint16_t{0}, &header);
  AppendField(uint64_t{payload.size()}, &header);
  AppendField(Xxh3(payload.data(), payload.size()), &header);
  bytes.replace(0, kHeaderBytes, header);
  return bytes;
}

absl::StatusOr<Checkpoint> DecodeCheckpoint(absl::string_view bytes) {
  absl::string_view rest = bytes;
  if (!absl::ConsumePrefix(&rest, kMagic) || bytes.size() < kHeaderBytes) {
    return absl::InvalidArgumentError("no training checkpoint");
  }
  FieldReader fields(rest);
  const auto major = fields.Read<uint8_t>();
  fields.Read<uint8_t>();
  const auto zero = fields.Read<uint16_t>();
  const auto length = fields.Read<uint64_t>();
  const auto checksum = fields.Read<uint64_t>();
  if (major != kMajor) {
    return absl::UnimplementedError(
        absl::StrCat("a training checkpoint of version ", major, "; this build reads ", kMajor));
  }
  const absl::string_view payload = bytes.substr(kHeaderBytes);
  if (zero != 0 || length != payload.size() || checksum != Xxh3(payload.data(), payload.size())) {
    return absl::InvalidArgumentError("the training checkpoint is damaged");
  }
  Checkpoint checkpoint;
  std::string note;
  std::vector<NamedTensor> tensors;
  KVLINK_RETURN_IF_ERROR(
      Annotate(DecodeTensors(payload, kNote, &tensors, &note), "the training checkpoint is damaged"));
  KVLINK_RETURN_IF_ERROR(Annotate(ParseNote(note, &checkpoint), "the training checkpoint is damaged"));
  for (NamedTensor& tensor : tensors) {
    const bool chosen = absl::StartsWith(tensor.name, kChosen);
    if (chosen) tensor.name.erase(0, kChosen.size());
    (chosen ? checkpoint.chosen : checkpoint.state).push_back(std::move(tensor));
  }
  return checkpoint;
}

absl::Status WriteCheckpoint(const std::string& path, const Checkpoint& checkpoint) {
  return WriteDurably(path, EncodeCheckpoint(checkpoint));
}

absl::StatusOr<std::optional<Checkpoint>> ReadCheckpoint(const std::string& path,
                                                         const std::map<std::string, std::string>& run) {
  const auto file = model::MappedFile::Open(path);
  if (absl::IsNotFound(file.status())) return std::nullopt;
  KVLINK_RETURN_IF_ERROR(file.status());
  const auto bytes = (*file)->bytes();
  auto checkpoint = DecodeCheckpoint({reinterpret_cast<const char*>(bytes.data()), bytes.size()});
  if (!checkpoint.ok()) {
    return absl::Status(checkpoint.status().code(),
                        absl::StrCat(path, ": ", checkpoint.status().message(), "; move it away to begin anew"));
  }
  std::map<std::string, std::string> names = run;
  for (const auto& [name, value] : checkpoint->run) names.try_emplace(name);
  std::vector<std::string> differences;
  for (const auto& [name, unused] : names) {
    const auto value = [&name = name](const std::map<std::string, std::string>& settings) -> std::string {
      const auto it = settings.find(name);
      return it == settings.end() ? "none" : it->second;
    };
    if (!checkpoint->run.contains(name) && absl::c_linear_search(kLater, name)) continue;
    if (value(run) != value(checkpoint->run)) {
      differences.push_back(absl::StrCat(name, " was ", value(checkpoint->run), " and is ", value(run)));
    }
  }
  if (differences.empty()) return *std::move(checkpoint);
  return absl::FailedPreconditionError(absl::StrCat(
      path, ": the checkpoint of another run: ", absl::StrJoin(differences, ", "), "; name another --out"));
}

}  // namespace kvlink::train
