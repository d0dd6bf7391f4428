// Three kinds of file: records of JSON, the two files of Multi-News with a line each, and plain text.
#include "worker/data/reader.h"

#include <algorithm>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/strip.h"
#include "base/status.h"
#include "base/utf8.h"
#include "worker/data/formats.h"
#include "worker/data/passages.h"
#include "worker/data/records.h"

namespace kvlink::data {
namespace {

constexpr Format kFormats[] = {Format::kHotpotQa, Format::kTwoWiki,   Format::kMusique, Format::kNaturalQuestions,
                               Format::kTriviaQa, Format::kMultiNews, Format::kSamsum,  Format::kXsum,
                               Format::kChat,     Format::kText,      Format::kNeedle};

using MaybeDamaged = absl::StatusOr<Example>;

absl::Status TooLong(const Record& record, int64_t max_bytes) {
  return absl::InvalidArgumentError(absl::StrCat(record.where, ": longer than ", max_bytes, " bytes"));
}

class JsonReader final : public Reader {
 public:
  JsonReader(Format format, std::unique_ptr<Records> records, const ReaderOptions& options)
      : Reader(options), format_(format), records_(std::move(records)) {}

 protected:
  absl::StatusOr<std::optional<MaybeDamaged>> Read() override {
    for (;;) {
      KVLINK_ASSIGN_OR_RETURN(const std::optional<Record> record, records_->Next());
      if (!record) return std::optional<MaybeDamaged>();
      if (record->too_long) return Damaged(TooLong(*record, options().max_example_bytes));
      if (absl::StripAsciiWhitespace(record->text).empty()) continue;
      MaybeDamaged example = ParseExample(format_, record->text);
      if (!example.ok()) return Damaged(Annotate(example.status(), record->where));
      if (example->id.empty()) example->id = absl::StrCat(record->number);
      return std::optional<MaybeDamaged>(std::move(example));
    }
  }

 private:
  static std::optional<MaybeDamaged> Damaged(absl::Status status) { return MaybeDamaged(std::move(status)); }

  const Format format_;
  const std::unique_ptr<Records> records_;
};

// The authors' files of Multi-News: a line of each makes an example.
class PairReader final : public Reader {
 public:
  PairReader(std::string path, std::string summaries_path, std::unique_ptr<Records> articles,
             std::unique_ptr<Records> summaries, const ReaderOptions& options)
      : Reader(options),
        path_(std::move(path)),
        summaries_path_(std::move(summaries_path)),
        articles_(std::move(articles)),
        summaries_(std::move(summaries)) {}

 protected:
  absl::StatusOr<std::optional<MaybeDamaged>> Read() override {
    KVLINK_ASSIGN_OR_RETURN(const std::optional<Record> articles, articles_->Next());
    KVLINK_ASSIGN_OR_RETURN(const std::optional<Record> summary, summaries_->Next());
    if (!articles && !summary) return std::optional<MaybeDamaged>();
    if (!articles || !summary) {
      return absl::InvalidArgumentError(absl::StrCat(articles ? summaries_path_ : path_, ": ends before ",
                                                     (articles ? articles : summary)->where,
                                                     "; the two files need a line for each example"));
    }
    return std::optional<MaybeDamaged>(ExampleOf(*articles, *summary));
  }

 private:
  MaybeDamaged ExampleOf(const Record& articles, const Record& summary) const {
    for (const Record* record : {&articles, &summary}) {
      if (record->too_long) return TooLong(*record, options().max_example_bytes);
      const size_t valid = ValidUtf8Prefix(record->text);
      if (valid < record->text.size()) {
        return absl::InvalidArgumentError(absl::StrCat(record->where, ": invalid UTF-8 at byte ", valid));
      }
    }
    Summary task = MultiNewsSummary(articles.text, summary.text);
    if (task.documents.empty()) return absl::InvalidArgumentError(absl::StrCat(articles.where, ": expected articles"));
    if (task.summary.empty()) return absl::InvalidArgumentError(absl::StrCat(summary.where, ": expected a summary"));
    return Example{absl::StrCat(articles.number), std::string(FormatName(Format::kMultiNews)), std::move(task)};
  }

  const std::string path_, summaries_path_;
  const std::unique_ptr<Records> articles_, summaries_;
};

class TextReader final : public Reader {
 public:
  TextReader(std::string path, std::unique_ptr<ingest::ByteStream> stream, const ReaderOptions& options)
      : Reader(options), path_(std::move(path)), passages_(std::move(stream), options.passage_bytes) {}

 protected:
  absl::StatusOr<std::optional<MaybeDamaged>> Read() override {
    KVLINK_ASSIGN_OR_RETURN(std::optional<Passages::Passage> passage, passages_.Next());
    if (!passage) return std::optional<MaybeDamaged>();
    ++number_;
    const size_t valid = ValidUtf8Prefix(passage->text);
    if (valid < passage->text.size()) {
      return std::optional<MaybeDamaged>(absl::InvalidArgumentError(absl::StrCat(
          path_, ", passage ", number_, ": invalid UTF-8 at byte ", passage->offset + static_cast<int64_t>(valid))));
    }
    return std::optional<MaybeDamaged>(
        Example{absl::StrCat(number_), std::string(FormatName(Format::kText)), Text{std::move(passage->text)}});
  }

 private:
  const std::string path_;
  Passages passages_;
  int64_t number_ = 0;
};

// Hides needles in the passages of another reader.
class NeedleReader final : public Reader {
 public:
  NeedleReader(std::unique_ptr<Reader> texts, const ReaderOptions& options)
      : Reader(options), texts_(std::move(texts)) {}

 protected:
  absl::StatusOr<std::optional<MaybeDamaged>> Read() override {
    if (next_depth_ == 0) {
      KVLINK_ASSIGN_OR_RETURN(const std::optional<Example> example, texts_->Next());
      if (!example) return std::optional<MaybeDamaged>();
      const std::string& text = std::get<Text>(example->task).text;
      passage_ = text.substr(0, CutBefore(text, static_cast<size_t>(options().passage_bytes)));
      ++number_;
    }
    const int64_t depth = options().needle_depths[next_depth_];
    next_depth_ = (next_depth_ + 1) % options().needle_depths.size();
    Random random(options().seed ^ Random(static_cast<uint64_t>(number_ * 101 + depth)).Next());
    const std::string kind = absl::StrCat(FormatName(Format::kNeedle), "-", depth);
    return std::optional<MaybeDamaged>(Example{absl::StrCat(number_, "-", depth), kind,
                                               NeedleQuestion(passage_, depth, options().needle_documents, random)});
  }

 private:
  const std::unique_ptr<Reader> texts_;
  std::string passage_;
  int64_t number_ = 0;  // of the passage
  size_t next_depth_ = 0;
};

bool IsJson(absl::string_view path) {
  if (!absl::ConsumeSuffix(&path, ".gz")) absl::ConsumeSuffix(&path, ".zst");
  return absl::EndsWith(path, ".jsonl") || absl::EndsWith(path, ".ndjson") || absl::EndsWith(path, ".json");
}

// The summaries beside a file of articles; empty if the name is no such file's.
std::string SummariesOf(const std::string& path) {
  absl::string_view name = path;
  absl::ConsumeSuffix(&name, ".cleaned");
  return absl::ConsumeSuffix(&name, ".src") ? absl::StrCat(name, ".tgt") : "";
}

absl::Status CheckOptions(const ReaderOptions& options) {
  const auto in_percent = [](int64_t depth) { return depth >= 0 && depth <= 100; };
  if (options.max_example_bytes <= 0 || options.passage_bytes <= 0 || options.needle_documents <= 0 ||
      options.needle_depths.empty() ||
      !std::all_of(options.needle_depths.begin(), options.needle_depths.end(), in_percent)) {
    return absl::InvalidArgumentError("examples: a length or a number of documents is 0, or a depth is not 0 to 100");
  }
  return absl::OkStatus();
}

}  // namespace

absl::Span<const Format> AllFormats() { return kFormats; }

absl::string_view FormatName(Format format) {
  switch (format) {
    case Format::kHotpotQa:
      return "hotpotqa";
    case Format::kTwoWiki:
      return "2wiki";
    case Format::kMusique:
      return "musique";
    case Format::kNaturalQuestions:
      return "nq";
    case Format::kTriviaQa:
      return "triviaqa";
    case Format::kMultiNews:
      return "multinews";
    case Format::kSamsum:
      return "samsum";
    case Format::kXsum:
      return "xsum";
    case Format::kChat:
      return "chat";
    case Format::kText:
      return "text";
    case Format::kNeedle:
      return "needle";
  }
  return "";
}

absl::StatusOr<Format> ParseFormat(absl::string_view name) {
  for (const Format format : kFormats) {
    if (name == FormatName(format)) return format;
  }
  const auto append = [](std::string* out, Format format) { absl::StrAppend(out, FormatName(format)); };
  return absl::InvalidArgumentError(
      absl::StrCat("unknown data format '", name, "'; use ", absl::StrJoin(kFormats, ", ", append)));
}

absl::StatusOr<DataFile> ParseDataFile(absl::string_view text) {
  const size_t colon = text.find(':');
  if (colon == absl::string_view::npos || colon + 1 == text.size()) {
    return absl::InvalidArgumentError(absl::StrCat("'", text, "' is not NAME:FILE, as in hotpotqa:dev.json"));
  }
  KVLINK_ASSIGN_OR_RETURN(const Format format, ParseFormat(text.substr(0, colon)));
  return DataFile{format, std::string(text.substr(colon + 1))};
}

absl::StatusOr<std::unique_ptr<Reader>> Reader::Open(Format format, const std::string& path,
                                                     const ReaderOptions& options) {
  KVLINK_RETURN_IF_ERROR(CheckOptions(options));
  std::unique_ptr<Reader> reader;
  const std::string summaries_path = format == Format::kMultiNews ? SummariesOf(path) : "";
  if (format == Format::kNeedle) {
    KVLINK_ASSIGN_OR_RETURN(auto texts, Open(Format::kText, path, options));
    reader = std::make_unique<NeedleReader>(std::move(texts), options);
  } else if (format == Format::kText && !IsJson(path)) {
    KVLINK_ASSIGN_OR_RETURN(auto stream, ingest::ByteStream::Open(path, options.interrupt));
    reader = std::make_unique<TextReader>(path, std::move(stream), options);
  } else if (!summaries_path.empty()) {
    const int64_t max_bytes = options.max_example_bytes;
    KVLINK_ASSIGN_OR_RETURN(auto articles, Records::Open(path, /*arrays=*/false, max_bytes, options.interrupt));
    KVLINK_ASSIGN_OR_RETURN(auto summaries, Records::Open(summaries_path, false, max_bytes, options.interrupt));
    reader = std::make_unique<PairReader>(path, summaries_path, std::move(articles), std::move(summaries), options);
  } else {
    KVLINK_ASSIGN_OR_RETURN(auto records,
                            Records::Open(path, /*arrays=*/true, options.max_example_bytes, options.interrupt));
    reader = std::make_unique<JsonReader>(format, std::move(records), options);
  }
  return reader;
}

absl::StatusOr<std::optional<Example>> Reader::Next() {
  while (status_.ok()) {
    absl::StatusOr<std::optional<absl::StatusOr<Example>>> read = Read();
    if (!read.ok()) {
      status_ = read.status();
    } else if (!read->has_value()) {
      return std::optional<Example>();
    } else if ((*read)->ok()) {
      return std::optional<Example>(**std::move(*read));
    } else if (skipped_ >= options_.max_skipped) {
      status_ = (*read)->status();
    } else {
      ++skipped_;
      if (options_.on_skipped) options_.on_skipped((*read)->status());
    }
  }
  return status_;
}

}  // namespace kvlink::data
