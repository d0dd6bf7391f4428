// Which source the next example comes from is a function of the seed and the number of examples drawn, so that a stream
// is continued by counting: nothing of it has to be saved.
#include "worker/train/mixture.h"

#include <algorithm>
#include <filesystem>
#include <limits>

#include "absl/strings/escaping.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "base/status.h"
#include "nlohmann/json.hpp"
#include "worker/data/random.h"

namespace kvlink::train {
namespace {

using Json = nlohmann::json;

constexpr absl::string_view kAnswers[] = {"names", "sentences", "steps"};  // by Source::Answers
constexpr int64_t kHeldOutEvery = 50;
constexpr int64_t kHeldOutItems = int64_t{1} << 40;  // indices of generated items from here on are held out
constexpr int64_t kSegmentTokens = 100;
constexpr size_t kMaxSources = 64;
constexpr int64_t kMaxCut = 1 << 20;
constexpr int64_t kAskEvery = 1024;  // examples

// Bits that have nothing to do with those of neighbouring positions.
data::Random At(uint64_t seed, int64_t position, uint64_t purpose) {
  return data::Random(data::Random(seed ^ purpose).Next() ^ (0x9e3779b97f4a7c15 * static_cast<uint64_t>(position + 1)));
}

int64_t Between(data::Random& random, std::pair<int64_t, int64_t> range) {
  return range.first + static_cast<int64_t>(random.Below(static_cast<size_t>(range.second - range.first + 1)));
}

std::vector<data::Kind> AllKinds() { return {data::AllKinds().begin(), data::AllKinds().end()}; }

absl::Status Wrong(absl::string_view member, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat("'", member, "' ", what));
}

absl::Status TakeRange(const Json& json, const char* member, int64_t least, int64_t most,
                       std::pair<int64_t, int64_t>* range) {
  const auto fits = [&](const Json& number) { return number.is_number_integer() && number >= least && number <= most; };
  if (!json.is_array() || json.size() != 2 || !fits(json[0]) || !fits(json[1]) || json[0] > json[1]) {
    return Wrong(member, absl::StrCat("must be [least, most], from ", least, " to ", most));
  }
  *range = {json[0].get<int64_t>(), json[1].get<int64_t>()};
  return absl::OkStatus();
}

absl::Status TakeKinds(const Json& json, std::vector<data::Kind>* kinds) {
  if (!json.is_array() || json.empty()) return Wrong("kinds", "must be a list of names");
  kinds->clear();
  for (const Json& name : json) {
    if (!name.is_string()) return Wrong("kinds", "must be a list of names");
    const auto kind = data::ParseKind(name.get<std::string>());
    KVLINK_RETURN_IF_ERROR(Annotate(kind.status(), "'kinds'"));
    kinds->push_back(*kind);
  }
  return absl::OkStatus();
}

absl::Status TakeMember(const std::string& name, const Json& value, absl::string_view directory, bool generated,
                        Source* source) {
  if (name == "weight") {
    if (!value.is_number() || value <= 0 || value > 1e9) return Wrong(name, "must be a number above 0");
    source->weight = value.get<double>();
  } else if (name == "format") {
    return absl::OkStatus();  // taken before the others
  } else if (name == "reading") {
    if (value != "linked" && value != "full") return Wrong(name, "must be \"linked\" or \"full\"");
    source->reading = value == "linked" ? Reading::kLinked : Reading::kFull;
  } else if (name == "path" && !generated) {
    if (!value.is_string() || value.get<std::string>().empty()) return Wrong(name, "must be the name of a file");
    source->path = (std::filesystem::path(std::string(directory)) / value.get<std::string>()).string();
  } else if (name == "document_tokens" && !generated) {
    if (!value.is_number_integer() || value < 1 || value > kMaxCut) return Wrong(name, "must be a number from 1");
    source->cut = value.get<int64_t>();
  } else if (name == "document_tokens") {
    return TakeRange(value, "document_tokens", data::kMinDocumentTokens, data::kMaxDocumentTokens,
                     &source->document_tokens);
  } else if (name == "documents" && generated) {
    return TakeRange(value, "documents", data::kMinDocuments, data::kMaxDocuments, &source->documents);
  } else if (name == "kinds" && generated) {
    return TakeKinds(value, &source->kinds);
  } else if (name == "answers" && generated) {
    const auto* const known = std::find_if(std::begin(kAnswers), std::end(kAnswers),
                                           [&](absl::string_view name) { return value == std::string(name); });
    if (known == std::end(kAnswers)) return Wrong(name, "must be \"names\", \"sentences\" or \"steps\"");
    source->answers = static_cast<Source::Answers>(known - std::begin(kAnswers));
  } else if (name == "questions" && generated) {
    if (!value.is_number_integer() || value < 1 || value > data::kMaxMore + 1) {
      return Wrong(name, absl::StrCat("must be a number from 1 to ", data::kMaxMore + 1));
    }
    source->questions = value.get<int64_t>();
  } else if (name == "names" && generated) {
    if (value != "syllables" && value != "letters") return Wrong(name, "must be \"syllables\" or \"letters\"");
    source->names = value == "letters" ? data::Names::kLetters : data::Names::kSyllables;
  } else if (name == "seed" && generated) {
    if (!value.is_number_unsigned()) return Wrong(name, "must be a number from 0");
    source->seed = value.get<uint64_t>();
  } else {
    return Wrong(name, absl::StrCat("is no member of a ", generated ? "generated source" : "source with a file"));
  }
  return absl::OkStatus();
}

absl::StatusOr<Source> ParseSource(const Json& json, absl::string_view directory) {
  if (!json.is_object()) return absl::InvalidArgumentError("must be an object");
  Source source;
  source.kinds = AllKinds();
  if (!json.contains("format") || !json["format"].is_string()) return Wrong("format", "is missing");
  const std::string format = json["format"].get<std::string>();
  const bool generated = format == "generated";
  if (!generated) {
    KVLINK_ASSIGN_OR_RETURN(source.format, data::ParseFormat(format));
  }
  for (const auto& [name, value] : json.items()) {
    KVLINK_RETURN_IF_ERROR(TakeMember(name, value, directory, generated, &source));
  }
  if (!generated && source.path.empty()) return Wrong("path", "is missing");
  if (source.format == data::Format::kText) source.reading = Reading::kFull;
  return source;
}

std::string RangeText(std::pair<int64_t, int64_t> range) { return absl::StrCat(range.first, "-", range.second); }

std::string DescribeSource(const Source& source) {
  const std::string reading = source.reading == Reading::kFull ? "full" : "linked";
  if (!source.format) {
    const auto append = [](std::string* out, data::Kind kind) { absl::StrAppend(out, data::KindName(kind)); };
    return absl::StrCat("generated-", data::kGeneratorVersion, " ", source.weight, " ", reading, " ",
                        absl::StrJoin(source.kinds, ",", append), " documents ", RangeText(source.documents),
                        " tokens ", RangeText(source.document_tokens), " seed ", source.seed,
                        source.answers == Source::kNames ? "" : absl::StrCat(" ", kAnswers[source.answers]),
                        source.questions > 1 ? absl::StrCat(" questions ", source.questions) : "",
                        source.names == data::Names::kLetters ? " letters" : "");
  }
  std::error_code error;
  const auto bytes = std::filesystem::file_size(source.path, error);
  // A name may be no UTF-8, as which it would not return from a checkpoint.
  return absl::StrCat(data::FormatName(*source.format), " ", source.weight, " ", reading, " ",
                      absl::CHexEscape(std::filesystem::path(source.path).filename().string()), " of ",
                      error ? 0 : bytes, " bytes", source.cut > 0 ? absl::StrCat(" cut ", source.cut) : "");
}

}  // namespace

absl::StatusOr<Mixture> ParseMixture(absl::string_view json, absl::string_view directory) {
  const Json object = Json::parse(json.begin(), json.end(), nullptr, /*allow_exceptions=*/false);
  if (!object.is_object() || object.size() != 1 || !object.contains("sources") || !object["sources"].is_array() ||
      object["sources"].empty() || object["sources"].size() > kMaxSources) {
    return absl::InvalidArgumentError(absl::StrCat("mixture: not a JSON object with the list \"sources\" of 1 to ",
                                                   kMaxSources, " and nothing else"));
  }
  Mixture mixture;
  for (const Json& one : object["sources"]) {
    auto source = ParseSource(one, directory);
    KVLINK_RETURN_IF_ERROR(Annotate(source.status(), absl::StrCat("mixture, source ", mixture.sources.size() + 1)));
    mixture.sources.push_back(*std::move(source));
  }
  return mixture;
}

Mixture GeneratedMixture() {
  Source source;
  source.kinds = AllKinds();
  return {{source}};
}

absl::StatusOr<Mixture> PaperMixture(const std::vector<std::string>& files) {
  std::vector<Source> texts, chats, summaries, questions;
  for (const std::string& file : files) {
    const auto named = data::ParseDataFile(file);
    KVLINK_RETURN_IF_ERROR(Annotate(named.status(), "option --data"));
    const data::Format format = named->format;
    const bool summarises =
        format == data::Format::kMultiNews || format == data::Format::kSamsum || format == data::Format::kXsum;
    Source source;
    source.format = format;
    source.path = named->path;
    source.cut = summarises ? kSegmentTokens : 0;
    (format == data::Format::kText   ? texts
     : format == data::Format::kChat ? chats
     : summarises                    ? summaries
                                     : questions)
        .push_back(std::move(source));
  }
  for (const auto& [sources, name] : {std::pair<const std::vector<Source>*, const char*>(&texts, "text:FILE"),
                                      {&chats, "chat:FILE"},
                                      {&summaries, "multinews:FILE, samsum:FILE or xsum:FILE"}}) {
    if (!sources->empty()) continue;
    return absl::InvalidArgumentError(absl::StrCat("the mixture of this mode needs --data ", name,
                                                   "; or describe another in a file, with --mixture"));
  }
  if (questions.empty()) {
    questions.emplace_back();
    questions[0].kinds = AllKinds();
    questions[0].documents = {10, 10};
  }
  Mixture mixture;
  const auto add = [&mixture](const std::vector<Source>& sources, double weight, Reading reading) {
    for (Source source : sources) {
      source.weight = weight / static_cast<double>(sources.size());
      source.reading = reading;
      mixture.sources.push_back(std::move(source));
    }
  };
  add(texts, 20, Reading::kFull);
  add(chats, 30, Reading::kFull);
  add(chats, 25, Reading::kLinked);
  add(questions, 10, Reading::kFull);
  add(questions, 10, Reading::kLinked);
  add(summaries, 5, Reading::kLinked);
  return mixture;
}

std::string DescribeMixture(const Mixture& mixture) {
  const auto append = [](std::string* out, const Source& source) { absl::StrAppend(out, DescribeSource(source)); };
  return absl::StrJoin(mixture.sources, "; ", append);
}

ExampleStream::ExampleStream(const Mixture* mixture, uint64_t seed, bool held_out, const data::ReaderOptions& reader,
                             std::function<bool()> stopped)
    : seed_(seed ^ (held_out ? 0x68656c646f757421 : 0)),
      held_out_(held_out),
      reader_(reader),
      stopped_(std::move(stopped)) {
  for (const Source& source : mixture->sources) {
    total_ += source.weight;
    states_.push_back({&source, nullptr, 0, 0});
  }
}

absl::StatusOr<std::unique_ptr<ExampleStream>> ExampleStream::Open(const Mixture* mixture, uint64_t seed, bool held_out,
                                                                   const data::ReaderOptions& reader,
                                                                   std::function<bool()> stopped) {
  std::unique_ptr<ExampleStream> stream(new ExampleStream(mixture, seed, held_out, reader, std::move(stopped)));
  for (State& state : stream->states_) {  // so that a missing file is reported now
    if (!state.source->format) continue;
    if (state.source->path == "-") {
      return absl::InvalidArgumentError(
          absl::StrCat("option --data ", data::FormatName(*state.source->format),
                       ":-: training reads its data again and again, which standard input is not; name a file"));
    }
    KVLINK_RETURN_IF_ERROR(stream->Reopen(state));
  }
  return stream;
}

absl::Status ExampleStream::Reopen(State& state) const {
  KVLINK_ASSIGN_OR_RETURN(state.reader, data::Reader::Open(*state.source->format, state.source->path, reader_));
  state.read = 0;
  return absl::OkStatus();
}

absl::Status ExampleStream::Count() {
  if (++counted_ % kAskEvery != 0 || !stopped_ || !stopped_()) return absl::OkStatus();
  return absl::CancelledError("stopped while examples were drawn");
}

size_t ExampleStream::Choose() const {
  data::Random random = At(seed_, drawn_, 0x736f75726365);
  double at = random.Uniform() * total_;
  for (size_t i = 0; i + 1 < states_.size(); ++i) {
    at -= states_[i].source->weight;
    if (at < 0) return i;
  }
  return states_.size() - 1;
}

absl::StatusOr<data::Example> ExampleStream::Generate(const Source& source) const {
  data::Random random = At(seed_, drawn_, 0x6974656d);
  data::ItemOptions options;
  options.split = data::Split::kTune;
  options.seed = source.seed;
  options.documents = Between(random, source.documents);
  options.document_tokens = Between(random, source.document_tokens);
  options.more = source.questions - 1;
  options.names = source.names;
  const data::Kind kind = random.Pick(source.kinds);
  KVLINK_ASSIGN_OR_RETURN(data::Item item, data::MakeItem(options, kind, (held_out_ ? kHeldOutItems : 0) + drawn_));
  data::Example example;
  example.id = item.id;
  example.kind = std::string(data::KindName(kind));
  if (source.answers != Source::kNames) {
    const auto said = [&](const std::string& stem, const std::string& answer, const std::string& steps) {
      return source.answers == Source::kSteps && !steps.empty() ? steps : absl::StrCat(stem, " ", answer, ".");
    };
    item.answers = {said(item.stem, item.answers.front(), item.steps)};
    for (data::Question::More& more : item.more) more.answer = said(more.stem, more.answer, more.steps);
  }
  example.task = static_cast<data::Question&&>(std::move(item));
  return example;
}

absl::StatusOr<data::Example> ExampleStream::Read(State& state) {
  for (int openings = 0; openings < 2;) {
    KVLINK_RETURN_IF_ERROR(Count());
    if (state.reader == nullptr) KVLINK_RETURN_IF_ERROR(Reopen(state));
    KVLINK_ASSIGN_OR_RETURN(std::optional<data::Example> example, state.reader->Next());
    if (!example) {
      state.reader.reset();
      ++openings;
      continue;
    }
    if (((state.read++ % kHeldOutEvery) == kHeldOutEvery - 1) == held_out_) return *std::move(example);
  }
  return absl::InvalidArgumentError(absl::StrCat(state.source->path, ": fewer than ", held_out_ ? kHeldOutEvery : 1,
                                                 " examples, so none can be ", held_out_ ? "held out" : "learned"));
}

absl::StatusOr<ExampleStream::Drawn> ExampleStream::Next() {
  State& state = states_[Choose()];
  Drawn drawn;
  drawn.source = state.source;
  if (!state.source->format) {
    KVLINK_RETURN_IF_ERROR(Count());
    KVLINK_ASSIGN_OR_RETURN(drawn.example, Generate(*state.source));
  } else {
    for (; state.skipped > 0; --state.skipped) KVLINK_RETURN_IF_ERROR(Read(state).status());
    KVLINK_ASSIGN_OR_RETURN(drawn.example, Read(state));
  }
  ++drawn_;
  return drawn;
}

absl::Status ExampleStream::Skip(int64_t drawn) {
  if (drawn < drawn_) return absl::InternalError("a stream of examples does not go back");
  while (drawn_ < drawn) {
    KVLINK_RETURN_IF_ERROR(Count());
    State& state = states_[Choose()];
    if (state.source->format) ++state.skipped;
    ++drawn_;
  }
  return absl::OkStatus();
}

}  // namespace kvlink::train
