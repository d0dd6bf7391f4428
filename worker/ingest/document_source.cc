#include "worker/ingest/document_source.h"

#include <algorithm>
#include <filesystem>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/status.h"
#include "base/utf8.h"
#include "nlohmann/json.hpp"

namespace kvlink::ingest {
namespace {

namespace fs = std::filesystem;
using Json = nlohmann::json;

absl::string_view WithoutCompression(absl::string_view name) {
  if (!absl::ConsumeSuffix(&name, ".gz")) absl::ConsumeSuffix(&name, ".zst");
  return name;
}

bool IsJsonLines(absl::string_view name) {
  name = WithoutCompression(name);
  return absl::EndsWith(name, ".jsonl") || absl::EndsWith(name, ".ndjson");
}

bool IsDocument(absl::string_view name) {
  const absl::string_view plain = WithoutCompression(name);
  return IsJsonLines(name) || absl::EndsWith(plain, ".txt") || absl::EndsWith(plain, ".md");
}

std::string TitleOf(const std::string& id) { return fs::path(std::string(WithoutCompression(id))).stem().string(); }

absl::Status CheckUtf8(absl::string_view text) {
  const size_t valid = ValidUtf8Prefix(text);
  if (valid == text.size()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("invalid UTF-8 at byte ", valid, " (0x",
                                                 absl::Hex(static_cast<uint8_t>(text[valid]), absl::kZeroPad2),
                                                 "); convert the text to UTF-8"));
}

// One line of JSON into `item`.
absl::Status ParseLine(const std::string& line, SourceItem* item) {
  KVLINK_RETURN_IF_ERROR(CheckUtf8(line));
  // What lies deeper than the members is left out as it is read: it may be hostile, and nobody asks for it.
  const auto shallow = [](int depth, Json::parse_event_t, Json&) { return depth <= 1; };
  const Json json = Json::parse(line, shallow, /*allow_exceptions=*/false);
  if (!json.is_object()) {
    return absl::InvalidArgumentError("not a JSON object; a line looks like {\"id\": \"...\", \"text\": \"...\"}");
  }
  const auto id = json.find("id");
  if (id == json.end()) return absl::InvalidArgumentError("member \"id\" is missing");
  if (id->is_string()) {
    item->id = id->get<std::string>();
  } else if (id->is_number_unsigned()) {
    item->id = absl::StrCat(id->get<uint64_t>());
  } else if (id->is_number_integer()) {
    item->id = absl::StrCat(id->get<int64_t>());
  } else {
    return absl::InvalidArgumentError("member \"id\" is neither a string nor an integer");
  }
  if (const auto title = json.find("title"); title != json.end() && !title->is_null()) {
    if (!title->is_string()) return absl::InvalidArgumentError("member \"title\" is no string");
    item->title = title->get<std::string>();
  }
  const auto text = json.find("text");
  if (text == json.end() || !text->is_string()) {
    return absl::InvalidArgumentError("member \"text\" is missing or no string");
  }
  item->text = text->get<std::string>();
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<DocumentSource>> DocumentSource::Open(const std::vector<std::string>& paths,
                                                                     const SourceOptions& options) {
  if (paths.empty()) {
    return absl::InvalidArgumentError("no input; give files or directories, or - for JSON lines on standard input");
  }
  if (std::count(paths.begin(), paths.end(), "-") > 1) {
    return absl::InvalidArgumentError("standard input (-) is given twice");
  }
  KVLINK_ASSIGN_OR_RETURN(auto interrupt, Interrupt::Create());
  std::unique_ptr<DocumentSource> source(new DocumentSource(options, std::move(interrupt)));
  for (const std::string& path : paths) KVLINK_RETURN_IF_ERROR(source->AddPath(path));
  if (!options.id.empty() && (source->inputs_.size() != 1 || source->inputs_[0].json_lines)) {
    return absl::InvalidArgumentError("an id or title on the command line is for one text; JSON lines bring their own");
  }
  if (!source->total_known_) source->total_bytes_ = 0;
  return source;
}

absl::Status DocumentSource::AddPath(const std::string& path) {
  using Format = SourceOptions::Format;
  const auto json_lines = [this](const std::string& name, bool otherwise) {
    return options_.format == Format::kAuto ? otherwise || IsJsonLines(name) : options_.format == Format::kJsonLines;
  };
  if (path == "-") {
    inputs_.push_back({path, options_.id.empty() ? "stdin" : options_.id, json_lines(path, true), 0});
    total_known_ = false;
    return absl::OkStatus();
  }
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (!fs::exists(status)) return absl::NotFoundError(absl::StrCat(path, ": no such file or directory"));
  if (fs::is_directory(status)) return AddDirectory(path);
  AddFile(path, options_.id.empty() ? fs::path(path).filename().string() : options_.id, json_lines(path, false));
  return absl::OkStatus();
}

absl::Status DocumentSource::AddDirectory(const std::string& path) {
  std::error_code error;
  std::vector<std::string> names;
  fs::recursive_directory_iterator walk(path, error);
  while (!error && walk != fs::recursive_directory_iterator()) {
    const std::string name = walk->path().filename().string();
    std::error_code kind;
    if (absl::StartsWith(name, ".")) {
      walk.disable_recursion_pending();
    } else if (IsDocument(name) && walk->is_regular_file(kind)) {
      names.push_back(walk->path().lexically_relative(path).generic_string());
    }
    walk.increment(error);
  }
  if (error) return absl::UnavailableError(absl::StrCat(path, ": cannot be listed: ", error.message()));
  if (names.empty()) {
    return absl::NotFoundError(
        absl::StrCat(path, ": no documents in this directory (.txt, .md, .jsonl or .ndjson, also as .gz or .zst)"));
  }
  std::sort(names.begin(), names.end());
  for (const std::string& name : names) {
    const bool json_lines = options_.format == SourceOptions::Format::kAuto
                                ? IsJsonLines(name)
                                : options_.format == SourceOptions::Format::kJsonLines;
    AddFile((fs::path(path) / name).string(), name, json_lines);
  }
  return absl::OkStatus();
}

void DocumentSource::AddFile(const std::string& path, const std::string& id, bool json_lines) {
  std::error_code error;
  const uintmax_t bytes = fs::file_size(path, error);
  if (error) total_known_ = false;  // a pipe
  inputs_.push_back({path, id, json_lines, error ? 0 : static_cast<int64_t>(bytes)});
  total_bytes_ += inputs_.back().bytes;
}

std::optional<SourceItem> DocumentSource::Next() {
  std::optional<SourceItem> item = NextOrInterrupted();
  if (item.has_value() && absl::IsCancelled(item->status)) return std::nullopt;
  return item;
}

std::optional<SourceItem> DocumentSource::NextOrInterrupted() {
  for (;;) {
    if (lines_ != nullptr) {
      if (auto item = NextLine()) return item;
      finished_bytes_ += inputs_[next_input_++].bytes;
      lines_.reset();
    }
    if (next_input_ == inputs_.size()) return std::nullopt;
    const Input& input = inputs_[next_input_];
    if (!input.json_lines) {
      SourceItem item = ReadText(input);
      finished_bytes_ += input.bytes;
      ++next_input_;
      item.position = finished_bytes_;
      return item;
    }
    auto stream = ByteStream::Open(input.path, interrupt_.get());
    if (!stream.ok()) {
      SourceItem item{.where = input.path, .status = stream.status()};
      finished_bytes_ += input.bytes;
      ++next_input_;
      item.position = finished_bytes_;
      return item;
    }
    lines_ = std::make_unique<LineReader>(*std::move(stream), options_.max_document_bytes);
  }
}

// nullopt: the current input has ended.
std::optional<SourceItem> DocumentSource::NextLine() {
  const Input& input = inputs_[next_input_];
  const std::string name = input.path == "-" ? "stdin" : input.path;
  for (;;) {
    auto line = lines_->Next();
    SourceItem item;
    item.position = finished_bytes_ + lines_->position();
    if (!line.ok()) {
      // Nothing behind this can be read: the next call goes on with the next input.
      item.where = name;
      item.status = line.status();
      finished_bytes_ += input.bytes;
      ++next_input_;
      lines_.reset();
      return item;
    }
    if (!line->has_value()) return std::nullopt;
    LineReader::Line& found = **line;
    if (!found.too_long && absl::StripAsciiWhitespace(found.text).empty()) continue;
    item.where = absl::StrCat(name, ":", found.number);
    item.status =
        found.too_long
            ? absl::InvalidArgumentError(absl::StrCat("the line has more than ", options_.max_document_bytes, " bytes"))
            : ParseLine(found.text, &item);
    return item;
  }
}

SourceItem DocumentSource::ReadText(const Input& input) {
  SourceItem item{.where = input.path == "-" ? "stdin" : input.path, .id = input.id};
  item.title = options_.title.empty() ? TitleOf(input.id) : options_.title;
  auto stream = ByteStream::Open(input.path, interrupt_.get());
  if (!stream.ok()) {
    item.status = stream.status();
    return item;
  }
  std::vector<char> buffer(64 << 10);
  for (;;) {
    const auto n = (*stream)->Read(absl::MakeSpan(buffer));
    if (!n.ok()) {
      item.status = n.status();
      return item;
    }
    if (*n == 0) break;
    item.text.append(buffer.data(), *n);
    if (static_cast<int64_t>(item.text.size()) > options_.max_document_bytes) {
      item.status =
          absl::InvalidArgumentError(absl::StrCat("the text has more than ", options_.max_document_bytes, " bytes"));
      item.text.clear();
      return item;
    }
  }
  item.status = CheckUtf8(item.text);
  return item;
}

}  // namespace kvlink::ingest
