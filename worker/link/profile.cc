// Reads a profile's JSON. Unknown keys are errors: a misspelt key would silently change the prompt.
#include "worker/link/profile.h"

#include <filesystem>
#include <initializer_list>
#include <limits>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status.h"
#include "nlohmann/json.hpp"
#include "worker/files/mapped_file.h"
#include "worker/link/shipped_profiles.h"

namespace kvlink::link {
namespace {

constexpr int64_t kMaxProfileBytes = int64_t{1} << 20;
constexpr int64_t kMaxLinksPerDocument = 256;
constexpr int64_t kMaxSlots = 65536;
constexpr int64_t kMaxWrapperTokens = 1024;  // of a header, and of a trailer
constexpr size_t kMaxTemplateBytes = 16384;

using Json = nlohmann::json;

absl::Status FieldError(absl::string_view field, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("link profile: '", field, "' ", what));
}

// Typed reads from one object. An absent field keeps its default; a misspelt one is an error. `prefix`: of the names in
// messages.
class Fields {
 public:
  explicit Fields(const Json& object, std::string prefix = "") : object_(object), prefix_(std::move(prefix)) {}

  absl::Status String(const char* field, std::string* out) const {
    const auto it = object_.find(field);
    if (it == object_.end()) return absl::OkStatus();
    if (!it->is_string()) return Error(field, "must be a string");
    *out = it->get<std::string>();
    return absl::OkStatus();
  }
  absl::Status Bool(const char* field, bool* out) const {
    const auto it = object_.find(field);
    if (it == object_.end()) return absl::OkStatus();
    if (!it->is_boolean()) return Error(field, "must be true or false");
    *out = it->get<bool>();
    return absl::OkStatus();
  }
  absl::Status Integer(const char* field, int64_t most, int64_t* out) const {
    const auto it = object_.find(field);
    if (it == object_.end()) return absl::OkStatus();
    const bool fits = it->is_number_unsigned() && it->get<uint64_t>() <= static_cast<uint64_t>(most);
    if (!fits) return Error(field, absl::StrCat("must be an integer from 0 to ", most));
    *out = it->get<int64_t>();
    return absl::OkStatus();
  }
  absl::Status TokenId(const char* field, std::optional<int32_t>* out) const {
    if (object_.find(field) == object_.end()) return absl::OkStatus();
    int64_t id = 0;
    KVLINK_RETURN_IF_ERROR(Integer(field, std::numeric_limits<int32_t>::max(), &id));
    *out = static_cast<int32_t>(id);
    return absl::OkStatus();
  }
  const Json* Find(const char* field) const {
    const auto it = object_.find(field);
    return it == object_.end() ? nullptr : &*it;
  }
  absl::Status OnlyKnown(std::initializer_list<absl::string_view> known) const {
    for (const auto& [key, value] : object_.items()) {
      bool found = false;
      for (absl::string_view name : known) found = found || name == key;
      if (!found)
        return Error(key.substr(0, 64), absl::StrCat("is not known; fields are ", absl::StrJoin(known, ", ")));
    }
    return absl::OkStatus();
  }

 private:
  absl::Status Error(absl::string_view field, absl::string_view what) const {
    return FieldError(absl::StrCat(prefix_, field), what);
  }

  const Json& object_;
  const std::string prefix_;
};

// "{name}" at `position`, or empty.
absl::string_view PlaceholderAt(absl::string_view text, size_t position) {
  if (text[position] != '{') return "";
  size_t end = position + 1;
  while (end < text.size() && ((text[end] >= 'a' && text[end] <= 'z') || text[end] == '_')) ++end;
  if (end >= text.size() || text[end] != '}' || end == position + 1) return "";
  return text.substr(position, end + 1 - position);
}

absl::Status CheckTemplate(absl::string_view text) {
  if (text.size() > kMaxTemplateBytes) {
    return FieldError("document_template",
                      absl::StrCat("has ", text.size(), " bytes; the limit is ", kMaxTemplateBytes));
  }
  int text_places = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const absl::string_view placeholder = PlaceholderAt(text, i);
    if (placeholder.empty()) continue;
    if (placeholder == "{text}") {
      ++text_places;
    } else if (placeholder != "{title}") {
      return FieldError(
          "document_template",
          absl::StrCat(
              "holds ", placeholder,
              "; only {title} and {text} are allowed, because an encoding must not depend on its document's position"));
    }
  }
  if (text_places != 1) return FieldError("document_template", "must hold {text} exactly once");
  return absl::OkStatus();
}

absl::Status CheckLinks(const LinkProfile& profile) {
  if (profile.links_per_document == 0) {
    if (profile.first_link_id || !profile.link_embeddings_file.empty()) {
      return FieldError("links_per_document", "is 0, but link ids or embeddings are given");
    }
    return absl::OkStatus();
  }
  if (profile.slots == 0) return FieldError("slots", "must be at least 1 when there are links");
  if (profile.first_link_id.has_value() == !profile.link_embeddings_file.empty()) {
    return FieldError("first_link_id", "or 'link_embeddings_file' must be given, but not both");
  }
  if (profile.first_link_id &&
      *profile.first_link_id + profile.slots * profile.links_per_document > std::numeric_limits<int32_t>::max()) {
    return FieldError("first_link_id", "leaves no room for slots * links_per_document ids");
  }
  return absl::OkStatus();
}

absl::StatusOr<WrapperFile> ParseWrapper(const Json& object) {
  if (!object.is_object()) return FieldError("wrapper", "must be an object");
  const Fields fields(object, "wrapper.");
  WrapperFile wrapper;
  KVLINK_RETURN_IF_ERROR(fields.OnlyKnown({"file", "header", "trailer"}));
  KVLINK_RETURN_IF_ERROR(fields.String("file", &wrapper.file));
  KVLINK_RETURN_IF_ERROR(fields.Integer("header", kMaxWrapperTokens, &wrapper.header));
  KVLINK_RETURN_IF_ERROR(fields.Integer("trailer", kMaxWrapperTokens, &wrapper.trailer));
  if (wrapper.file.empty()) return FieldError("wrapper.file", "is missing or empty");
  if (wrapper.header + wrapper.trailer == 0) {
    return FieldError("wrapper", "has neither header nor trailer; give at least one of them a token");
  }
  return wrapper;
}

// `file`, relative to `directory` unless it is absolute.
std::string Beside(absl::string_view directory, const std::string& file) {
  const std::filesystem::path path(file);
  return path.is_relative() ? (std::filesystem::path(std::string(directory)) / path).string() : file;
}

}  // namespace

absl::StatusOr<LinkProfile> ParseLinkProfile(absl::string_view json, absl::string_view directory) {
  const Json object = Json::parse(json.begin(), json.end(), nullptr, /*allow_exceptions=*/false);
  if (!object.is_object()) return absl::InvalidArgumentError("link profile: not a JSON object");
  const Fields fields(object);
  KVLINK_RETURN_IF_ERROR(
      fields.OnlyKnown({"name", "trained", "links_per_document", "slots", "first_link_id", "link_embeddings_file",
                        "wrapper", "linker", "mem_start", "mem_end", "document_template", "place"}));
  LinkProfile profile;
  std::string place = "in-user", linker;
  KVLINK_RETURN_IF_ERROR(fields.String("name", &profile.name));
  KVLINK_RETURN_IF_ERROR(fields.Bool("trained", &profile.trained));
  KVLINK_RETURN_IF_ERROR(fields.Integer("links_per_document", kMaxLinksPerDocument, &profile.links_per_document));
  KVLINK_RETURN_IF_ERROR(fields.Integer("slots", kMaxSlots, &profile.slots));
  KVLINK_RETURN_IF_ERROR(fields.TokenId("first_link_id", &profile.first_link_id));
  KVLINK_RETURN_IF_ERROR(fields.String("link_embeddings_file", &profile.link_embeddings_file));
  if (const Json* const wrapper = fields.Find("wrapper")) {
    KVLINK_ASSIGN_OR_RETURN(profile.wrapper, ParseWrapper(*wrapper));
    profile.wrapper->file = Beside(directory, profile.wrapper->file);
  }
  KVLINK_RETURN_IF_ERROR(fields.String("linker", &linker));
  KVLINK_RETURN_IF_ERROR(fields.TokenId("mem_start", &profile.mem_start));
  KVLINK_RETURN_IF_ERROR(fields.TokenId("mem_end", &profile.mem_end));
  KVLINK_RETURN_IF_ERROR(fields.String("document_template", &profile.document_template));
  KVLINK_RETURN_IF_ERROR(fields.String("place", &place));
  if (profile.name.empty()) return FieldError("name", "is missing or empty");
  if (place == "after-system") {
    profile.place = LinkProfile::Place::kAfterSystem;
  } else if (place == "in-user") {
    profile.place = LinkProfile::Place::kInUser;
  } else {
    return FieldError("place", "must be \"after-system\" or \"in-user\"");
  }
  if (linker.empty()) linker = profile.wrapper ? "packet" : "concat";
  const absl::StatusOr<Linker> parsed = ParseLinker(linker);
  if (!parsed.ok()) return FieldError("linker", absl::StrCat("is not one: ", parsed.status().message()));
  profile.linker = *parsed;
  KVLINK_RETURN_IF_ERROR(CheckTemplate(profile.document_template));
  KVLINK_RETURN_IF_ERROR(CheckLinks(profile));
  if (!profile.link_embeddings_file.empty()) {
    profile.link_embeddings_file = Beside(directory, profile.link_embeddings_file);
  }
  return profile;
}

absl::StatusOr<LinkProfile> LoadLinkProfile(const std::string& name_or_path) {
  std::string names;
  for (const ShippedProfile& shipped : ShippedProfiles()) {
    if (shipped.name == name_or_path) return ParseLinkProfile(shipped.json, "");
    absl::StrAppend(&names, names.empty() ? "" : ", ", shipped.name);
  }
  const auto json = model::ReadSmallFile(name_or_path, kMaxProfileBytes);
  if (absl::IsNotFound(json.status())) {
    return absl::NotFoundError(absl::StrCat("no link profile '", name_or_path, "': neither a file nor one of ", names));
  }
  if (!json.ok()) return json.status();
  absl::StatusOr<LinkProfile> profile =
      ParseLinkProfile(*json, std::filesystem::path(name_or_path).parent_path().string());
  if (!profile.ok()) return Annotate(profile.status(), name_or_path);
  return profile;
}

absl::Status CheckProfile(const LinkProfile& profile, const model::ModelConfig& config) {
  const auto check = [&](absl::string_view field, int64_t last) {
    if (last >= 0 && last < config.vocab) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat("link profile '", profile.name, "': '", field, "' reaches id ", last,
                                                   ", but the model has ", config.vocab,
                                                   " ids; this profile belongs to another model"));
  };
  if (profile.mem_start) KVLINK_RETURN_IF_ERROR(check("mem_start", *profile.mem_start));
  if (profile.mem_end) KVLINK_RETURN_IF_ERROR(check("mem_end", *profile.mem_end));
  if (profile.first_link_id) {
    KVLINK_RETURN_IF_ERROR(
        check("first_link_id", *profile.first_link_id + profile.slots * profile.links_per_document - 1));
  }
  return absl::OkStatus();
}

std::string DocumentText(const LinkProfile& profile, absl::string_view title, absl::string_view text) {
  std::string form = profile.document_template;
  if (title.empty()) {
    const size_t place = form.find("{title}");
    if (place != std::string::npos) {
      const size_t before = form.rfind('\n', place);
      const size_t begin = before == std::string::npos ? 0 : before + 1;
      const size_t end = form.find('\n', place);
      // If title and text share a line, only the placeholder is removed.
      const std::string line = form.substr(begin, end == std::string::npos ? end : end - begin);
      if (line.find("{text}") == std::string::npos) {
        form.erase(begin, end == std::string::npos ? end : end + 1 - begin);
      }
    }
  }
  std::string out;
  out.reserve(form.size() + title.size() + text.size());
  for (size_t i = 0; i < form.size();) {
    const absl::string_view placeholder = PlaceholderAt(form, i);
    if (placeholder == "{title}") {
      out.append(title.data(), title.size());
    } else if (placeholder == "{text}") {
      out.append(text.data(), text.size());
    } else {
      out.push_back(form[i++]);
      continue;
    }
    i += placeholder.size();
  }
  return out;
}

}  // namespace kvlink::link
