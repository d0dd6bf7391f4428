#include "worker/ingest/source/document_source.h"

#include <algorithm>
#include <filesystem>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"
#include "base/status.h"
#include "base/utf8.h"
#include "worker/ingest/source/json_line.h"

namespace kvlink::ingest {
namespace {

namespace fs = std::filesystem;

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

// Whether a name suggests neither lines nor text: a whole JSON document, or a table.
bool IsAmbiguous(absl::string_view name) {
  name = WithoutCompression(name);
  return absl::EndsWithIgnoreCase(name, ".json") || absl::EndsWithIgnoreCase(name, ".csv");
}

std::string TitleOf(const std::string& id) { return fs::path(std::string(WithoutCompression(id))).stem().string(); }

absl::Status TooLong(absl::string_view what, int64_t most) {
  return absl::InvalidArgumentError(
      absl::StrCat("the ", what, " has more than ", most, " bytes; split it, or raise --document-bytes"));
}

absl::Status CheckUtf8(absl::string_view text) {
  const size_t valid = ValidUtf8Prefix(text);
  if (valid == text.size()) return absl::OkStatus();
  return absl::InvalidArgumentError(absl::StrCat("invalid UTF-8 at byte ", valid, " (0x",
                                                 absl::Hex(static_cast<uint8_t>(text[valid]), absl::kZeroPad2),
                                                 "); convert the text to UTF-8"));
}

// Parses one line of JSON into `item`.
absl::Status ParseLine(const std::string& line, SourceItem* item) {
  KVLINK_RETURN_IF_ERROR(CheckUtf8(line));
  JsonLine read;
  const absl::Status status = ParseJsonLine(line, &read);
  item->id = std::move(read.id);
  item->title = std::move(read.title);
  item->text = std::move(read.text);
  return status;
}

}  // namespace

absl::StatusOr<std::unique_ptr<DocumentSource>> DocumentSource::Open(const std::vector<std::string>& paths,
                                                                     const SourceOptions& options,
                                                                     const Interrupt* interrupt) {
  if (paths.empty()) {
    return absl::InvalidArgumentError("no input; give files or directories, or - for JSON lines on standard input");
  }
  if (std::count(paths.begin(), paths.end(), "-") > 1) {
    return absl::InvalidArgumentError("standard input (-) is given twice");
  }
  std::unique_ptr<DocumentSource> source(new DocumentSource(options, interrupt));
  for (const std::string& path : paths) KVLINK_RETURN_IF_ERROR(source->AddPath(path));
  const std::vector<Input>& inputs = source->inputs_;
  const bool one_text = inputs.size() == 1 && !inputs[0].json_lines && !inputs[0].directory;
  if (!one_text && !(options.id.empty() && options.title.empty())) {
    return absl::InvalidArgumentError("--id and --title are for a single text; JSON lines have their own");
  }
  if (!source->total_known_) source->total_bytes_ = 0;
  return source;
}

bool DocumentSource::AreJsonLines(const std::string& name, bool otherwise) const {
  using Format = SourceOptions::Format;
  return options_.format == Format::kAuto ? otherwise || IsJsonLines(name) : options_.format == Format::kJsonLines;
}

absl::Status DocumentSource::AddPath(const std::string& path) {
  if (path == "-") {
    inputs_.push_back(
        {.path = path, .id = options_.id.empty() ? "stdin" : options_.id, .json_lines = AreJsonLines(path, true)});
    total_known_ = false;
    return absl::OkStatus();
  }
  if (path.empty()) return absl::InvalidArgumentError("an input has no name; give files or directories, or -");
  std::error_code error;
  const fs::file_status status = fs::status(path, error);
  if (!fs::exists(status)) return absl::NotFoundError(absl::StrCat(path, ": no such file or directory"));
  if (fs::is_directory(status)) return AddDirectory(path);
  if (options_.format == SourceOptions::Format::kAuto && IsAmbiguous(path)) {
    return absl::InvalidArgumentError(absl::StrCat(
        path,
        ": JSON lines or one text? use --format jsonl or --format text; JSON arrays and tables are not supported"));
  }
  const uintmax_t bytes = fs::file_size(path, error);
  if (error) total_known_ = false;  // a pipe
  inputs_.push_back({.path = path,
                     .id = options_.id.empty() ? fs::path(path).filename().string() : options_.id,
                     .json_lines = AreJsonLines(path, false),
                     .bytes = error ? 0 : static_cast<int64_t>(bytes)});
  total_bytes_ += inputs_.back().bytes;
  return absl::OkStatus();
}

// This first walk only counts; the files are found again when it is their turn.
absl::Status DocumentSource::AddDirectory(const std::string& path) {
  bool any = false;
  DirectoryWalk walk(path);
  while (const auto entry = walk.Next()) {
    if (!entry->status.ok() && entry->below.empty()) return Annotate(entry->status, path);
    if (entry->status.ok() && !IsDocument(entry->below)) {
      ++ignored_files_;
      continue;
    }
    any = true;
    std::error_code error;
    const uintmax_t bytes = entry->status.ok() ? fs::file_size(entry->path, error) : 0;
    if (!error) total_bytes_ += static_cast<int64_t>(bytes);
  }
  if (!any) {
    return absl::NotFoundError(
        absl::StrCat(path, ": no documents in this directory (.txt, .md, .jsonl or .ndjson, also as .gz or .zst)"));
  }
  inputs_.push_back({.path = path, .directory = true});
  return absl::OkStatus();
}

bool DocumentSource::TakeInput() {
  for (;;) {
    while (walk_ != nullptr) {
      auto entry = walk_->Next();
      if (!entry.has_value()) {
        walk_.reset();
        break;
      }
      if (entry->status.ok() && !IsDocument(entry->below)) continue;
      std::error_code error;
      const uintmax_t bytes = entry->status.ok() ? fs::file_size(entry->path, error) : 0;
      current_ = Input{.path = entry->path,
                       .id = entry->below,
                       .json_lines = AreJsonLines(entry->below, false),
                       .bytes = error ? 0 : static_cast<int64_t>(bytes),
                       .status = entry->status};
      return true;
    }
    if (next_input_ == inputs_.size()) return false;
    const Input& input = inputs_[next_input_++];
    if (!input.directory) {
      current_ = input;
      return true;
    }
    walk_ = std::make_unique<DirectoryWalk>(input.path);
  }
}

void DocumentSource::FinishInput() {
  finished_bytes_ += current_->bytes;
  current_.reset();
  lines_.reset();
}

std::optional<SourceItem> DocumentSource::Next() {
  for (;;) {
    std::optional<SourceItem> item = NextOfAll();
    if (!item.has_value() || absl::IsCancelled(item->status)) return std::nullopt;
    unnamed_ += item->id.empty() ? 1 : 0;
    if (IsOurs(*item)) return item;
  }
}

bool DocumentSource::IsOurs(const SourceItem& item) const {
  // Without directories: other processes may have mounted the input elsewhere.
  if (item.id.empty()) return options_.shard.Has(absl::string_view(item.where).substr(item.where.rfind('/') + 1));
  return options_.shard.Has(item.id);
}

std::optional<SourceItem> DocumentSource::NextOfAll() {
  while (current_.has_value() || TakeInput()) {
    if (lines_ != nullptr) {
      if (auto item = NextLine()) return item;
      FinishInput();
      continue;
    }
    SourceItem item{.where = current_->path, .status = current_->status};
    if (item.status.ok() && current_->json_lines) {
      auto stream = ByteStream::Open(current_->path, interrupt_);
      if (stream.ok()) {
        lines_ = std::make_unique<LineReader>(*std::move(stream), options_.max_document_bytes);
        continue;
      }
      item.status = stream.status();
    } else if (item.status.ok()) {
      item = ReadText(*current_);
    }
    FinishInput();
    item.position = finished_bytes_;
    return item;
  }
  return std::nullopt;
}

// nullopt: the current input has ended.
std::optional<SourceItem> DocumentSource::NextLine() {
  const std::string name = current_->path == "-" ? "stdin" : current_->path;
  for (;;) {
    auto line = lines_->Next();
    SourceItem item;
    item.position = finished_bytes_ + lines_->position();
    if (!line.ok()) {
      // The rest of this input cannot be read; continue with the next one.
      item.where = name;
      item.status = line.status();
      FinishInput();
      return item;
    }
    if (!line->has_value()) return std::nullopt;
    LineReader::Line& found = **line;
    if (!found.too_long && absl::StripAsciiWhitespace(found.text).empty()) continue;
    item.where = absl::StrCat(name, ":", found.number);
    item.status = found.too_long ? TooLong("line", options_.max_document_bytes) : ParseLine(found.text, &item);
    return item;
  }
}

SourceItem DocumentSource::ReadText(const Input& input) {
  SourceItem item{.where = input.path == "-" ? "stdin" : input.path, .id = input.id};
  if (!IsOurs(item)) return item;
  item.title = options_.title.empty() ? TitleOf(input.id) : options_.title;
  auto stream = ByteStream::Open(input.path, interrupt_);
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
      item.status = TooLong("text", options_.max_document_bytes);
      item.text.clear();
      return item;
    }
  }
  item.status = CheckUtf8(item.text);
  item.text.erase(0, item.text.size() - WithoutByteOrderMark(item.text).size());
  return item;
}

}  // namespace kvlink::ingest
