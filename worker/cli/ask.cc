// kvlink ask: answers from stored documents, alone or beside a full prefill.
#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <utility>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "base/cli/json.h"
#include "base/cli/standard_streams.h"
#include "base/status.h"
#include "nlohmann/json.hpp"
#include "worker/cli/ask_report.h"
#include "worker/cli/ask_session.h"
#include "worker/cli/commands.h"
#include "worker/cli/interrupt.h"
#include "worker/cli/questions.h"

namespace kvlink::cli {
namespace {

constexpr absl::string_view kAskSummary =
    "Answers QUESTION (- reads it from standard input) from the named documents only. --doc documents\n"
    "come from their encodings in the store (kvlink inspect documents lists them); --file documents are\n"
    "encoded on the spot and saved if there is a store. --compare also answers the question with an\n"
    "ordinary prefill and shows both times to first token.\n\n"
    "A document that was cut into parts when it was ingested (kvlink inspect document ID shows them) can\n"
    "be used whole with --doc, which takes each part as a document of its own, or in part with --parts.\n\n"
    "--questions reads JSON lines: {\"question\": ..., \"documents\": [ids], \"answer\": expected text}.\n"
    "\"answer\" may be a list of accepted spellings, the one to show first: [\"330 metres\", \"330 meters\"].\n"
    "Instead of an id, {\"id\": ..., \"parts\": \"2-5\"} selects some parts.\n\n"
    "--secret-file names the secret that the documents were ingested with. --doc documents with another\n"
    "secret, or none, are refused; --file documents are encoded anew.";

struct AskFlags {
  AskOptions ask;
  std::vector<std::string> documents;
  std::vector<std::string> parts;
  std::vector<std::string> files;
  std::string question;
  std::string questions;
  std::string linker;
  bool compare = false;
  bool chat = false;
  bool quiet = false;
  bool json = false;
  double temperature = 0;
  double top_p = 1;
  double min_p = 0;
  int64_t top_k = 0;
  int64_t seed = 0;
  double timeout = 600;

  bool words() const { return !quiet && !json; }  // beside answers, on standard output
};

// Takes the question from --question, the operands or standard input.
absl::Status TakeQuestion(const Arguments& arguments, AskFlags& flags) {
  const std::vector<std::string>& operands = arguments.operands();
  if (arguments.given("question") && !operands.empty()) {
    return absl::InvalidArgumentError(absl::StrCat(
        "'", operands[0], "': unexpected operand; --question is given, quote its text if it contains spaces"));
  }
  if (operands == std::vector<std::string>{"-"}) {
    constexpr size_t kMaxQuestionBytes = 1 << 20;
    std::string text(kMaxQuestionBytes + 1, '\0');
    text.resize(std::fread(text.data(), 1, text.size(), stdin));
    if (text.size() > kMaxQuestionBytes) return absl::InvalidArgumentError("the question is longer than 1 MiB");
    flags.question = std::move(text);
  } else if (!arguments.given("question")) {
    flags.question = absl::StrJoin(operands, " ");
  }
  flags.question = std::string(absl::StripAsciiWhitespace(flags.question));
  if (flags.question.empty() && (arguments.given("question") || !operands.empty())) {
    return absl::InvalidArgumentError("the question is empty");
  }
  return absl::OkStatus();
}

absl::Status Parse(absl::Span<char* const> args, Arguments& arguments, AskFlags& flags) {
  AddStoreFlags(arguments, flags.ask.store);
  AddModelFlags(arguments, flags.ask.model);
  arguments.Texts("doc", "ID", "Use this document from the store; repeat for several, in order.", &flags.documents);
  arguments.Texts(
      "parts", "ID=RANGE",
      "Use some parts of a document, counted from 1: ID=3, ID=2-5 or ID=2-. They come after the --doc documents.",
      &flags.parts);
  arguments.Texts(
      "file", "PATH",
      "Use the documents of a text file, a JSON lines file or a directory. They come after --doc and --parts.",
      &flags.files);
  arguments.Text("question", "TEXT", "The question, if not given as an operand.", &flags.question);
  arguments.Text("questions", "FILE", "Answer the questions in a JSON lines file, each from its own documents.",
                 &flags.questions);
  arguments.Text("system", "TEXT", "System message of the chat.", &flags.ask.system);
  arguments.Text(
      "linker", "LINKER",
      "How documents are combined. concat: encodings side by side; packet: encodings inside the profile's "
      "trained wrapper; links: with the profile's trained link tokens; full: an ordinary prefill. To concat, "
      "packet or links can be added, joined by +: head-K: the first K tokens of every document but the first "
      "are computed again; blend-R: the R percent of tokens that the other documents change most; "
      "prophet-P: the P percent that the question attends to most. Default: the profile's; if it names none, "
      "packet if it has a wrapper, else concat.",
      &flags.linker);
  arguments.Flag("compare", "Also answer with a full prefill, and show both.", &flags.compare);
  arguments.Flag("chat", "Read further questions from standard input.", &flags.chat);
  arguments.Integer("max-tokens", "N", "Maximum number of tokens in an answer.", 1, 1 << 20, &flags.ask.max_tokens);
  arguments.Real("temperature", "T", "Sampling temperature; 0 always picks the likeliest token.", 0, 100,
                 &flags.temperature);
  arguments.Integer("top-k", "N", "Sample from the N likeliest tokens; 0: from all.", 0, 1 << 24, &flags.top_k);
  arguments.Real("top-p", "P", "Sample from the likeliest tokens whose probabilities add up to P.", 0, 1, &flags.top_p);
  arguments.Real("min-p", "P", "Sample only tokens that are at least P times as likely as the likeliest.", 0, 1,
                 &flags.min_p);
  arguments.Integer("seed", "N", "Random seed, used if --temperature is above 0.", 0, INT64_MAX, &flags.seed);
  arguments.Number("timeout", "SECONDS", "Time limit for one answer.", &flags.timeout);
  AddDeviceFlags(arguments, flags.ask.device);
  arguments.Flag("quiet", "Print only answers.", &flags.quiet);
  AddJsonFlag(arguments, &flags.json);
  KVLINK_RETURN_IF_ERROR(arguments.Parse(args));
  if (arguments.help_wanted()) return absl::OkStatus();
  if (arguments.given("linker")) {
    KVLINK_ASSIGN_OR_RETURN(flags.ask.linker, link::ParseLinker(flags.linker));
  }
  KVLINK_ASSIGN_OR_RETURN(flags.ask.tenant_secret, TenantSecret(arguments, flags.ask.store));
  KVLINK_RETURN_IF_ERROR(TakeQuestion(arguments, flags));
  if (!flags.questions.empty() && (!flags.question.empty() || flags.chat)) {
    return absl::InvalidArgumentError("--questions cannot be combined with a question or --chat");
  }
  if (!flags.questions.empty() && !(flags.documents.empty() && flags.parts.empty() && flags.files.empty())) {
    return absl::InvalidArgumentError(
        "--questions cannot be combined with --doc, --parts or --file; the questions name their documents");
  }
  if (flags.question.empty() && flags.questions.empty() && !flags.chat) {
    return absl::InvalidArgumentError("no question; give one as an operand, or use --questions or --chat");
  }
  KVLINK_RETURN_IF_ERROR(CheckDeviceFlags(arguments, flags.ask.model, flags.ask.device));
  if (flags.chat && flags.json) return absl::InvalidArgumentError("--chat and --json cannot be combined");
  if (flags.chat && flags.compare) return absl::InvalidArgumentError("--chat and --compare cannot be combined");
  flags.ask.sampling.temperature = static_cast<float>(flags.temperature);
  flags.ask.sampling.top_k = static_cast<int32_t>(flags.top_k);
  flags.ask.sampling.top_p = static_cast<float>(flags.top_p);
  flags.ask.sampling.min_p = static_cast<float>(flags.min_p);
  flags.ask.sampling.seed = static_cast<uint64_t>(flags.seed);
  flags.ask.store_needed = !flags.documents.empty() || !flags.parts.empty() || !flags.questions.empty();
  // For a single answer over encodings alone.
  if (!flags.chat && !flags.compare && flags.questions.empty()) {
    const size_t bytes = flags.question.size() + flags.ask.system.size();  // a token is a byte at least
    flags.ask.private_tokens = static_cast<int64_t>(bytes) + flags.ask.max_tokens + 1024;
  }
  return absl::OkStatus();
}

infer::Limits LimitsOf(const AskFlags& flags) {
  return {absl::Seconds(flags.timeout), [] { return Interrupted() || OutputFailed(); }};
}

void Print(absl::string_view text) {
  std::fwrite(text.data(), 1, text.size(), stdout);
  std::fflush(stdout);
}

// Streams one answer to standard output. `turn`: the number of earlier answers in the chat.
absl::StatusOr<infer::Answer> Answer(infer::Chat& chat, const AskFlags& flags, const std::string& question, int turn) {
  bool begun = false;
  auto answer = chat.Ask(question, LimitsOf(flags), [&begun](absl::string_view text) {
    begun = true;
    Print(text);
  });
  if (begun || answer.ok()) Print("\n");
  KVLINK_RETURN_IF_ERROR(answer.status());
  if (answer->stop != infer::Stop::kEnd && !flags.quiet) {
    std::fprintf(stderr, "[answer cut off at %s]\n",
                 answer->stop == infer::Stop::kMaxTokens ? "--max-tokens" : "the model's context limit");
  }
  if (!flags.quiet) std::fprintf(stderr, "[%s]\n", AnswerInWords(*answer, chat.stats(), turn).c_str());
  return answer;
}

// Trims the answer and indents its further lines.
std::string Indented(absl::string_view answer) {
  std::string text(absl::StripAsciiWhitespace(answer));
  for (size_t at = 0; (at = text.find('\n', at)) != std::string::npos; ++at) text.insert(at + 1, "                ");
  return text;
}

// Prints both answers to one question. They run one after the other; the full prefill reads nothing, so neither helps
// the other.
absl::Status Compare(AskSession& session, const AskFlags& flags, const Question& question,
                     const std::vector<infer::RequestDocument>& documents, AskTotals* totals) {
  const auto linked_chat = session.NewChat(session.linker(), documents);
  KVLINK_ASSIGN_OR_RETURN(const infer::Answer linked, linked_chat->Ask(question.text, LimitsOf(flags), nullptr));
  const infer::RequestStats stats = linked_chat->stats();
  absl::PrintF("  linked        %s\n", Indented(linked.text));
  std::fflush(stdout);
  const auto full_chat = session.NewChat(link::Linker::kFull, documents);
  KVLINK_ASSIGN_OR_RETURN(const infer::Answer full, full_chat->Ask(question.text, LimitsOf(flags), nullptr));
  absl::PrintF("  full prefill  %s\n", Indented(full.text));
  if (!question.expected.empty()) {
    absl::PrintF("  expected      %s (linked: %s, full prefill: %s)\n", question.expected[0],
                 Holds(linked.text, question.expected) ? "yes" : "no",
                 Holds(full.text, question.expected) ? "yes" : "no");
  }
  totals->Add(question, linked, stats, &full);
  absl::PrintF("  first token   %s\n", TimesInWords(totals->linked.back(), totals->full.back()));
  absl::PrintF("  read          %s; %d of %d prompt tokens computed; encodings: %s\n",
               FormatBytes(static_cast<double>(BytesRead(stats))), linked.fresh_tokens, stats.prompt_tokens,
               EncodingsInWords(stats));
  std::fflush(stdout);
  return absl::OkStatus();
}

// Answers one question, and with --compare by a full prefill as well.
absl::StatusOr<nlohmann::json> AskForJson(AskSession& session, const AskFlags& flags, const Question& question,
                                          const std::vector<infer::RequestDocument>& documents, AskTotals* totals) {
  const auto chat = session.NewChat(session.linker(), documents);
  KVLINK_ASSIGN_OR_RETURN(const infer::Answer answer, chat->Ask(question.text, LimitsOf(flags), nullptr));
  nlohmann::json json = AnswerAsJson(answer, chat->stats());
  json["question"] = question.text;
  if (!question.expected.empty()) {
    json["expected"] = question.expected;
    json["right"] = Holds(answer.text, question.expected);
  }
  if (!flags.compare) {
    totals->Add(question, answer, chat->stats(), nullptr);
    return json;
  }
  const auto full_chat = session.NewChat(link::Linker::kFull, documents);
  KVLINK_ASSIGN_OR_RETURN(const infer::Answer full, full_chat->Ask(question.text, LimitsOf(flags), nullptr));
  json["full"] = AnswerAsJson(full, full_chat->stats());
  if (!question.expected.empty()) json["full"]["right"] = Holds(full.text, question.expected);
  totals->Add(question, answer, chat->stats(), &full);
  return json;
}

// Prints whether `text` contains an expected answer.
void PrintJudgement(const Question& question, const std::string& text) {
  if (question.expected.empty()) return;
  absl::PrintF("  expected      %s (%s)\n", question.expected[0], Holds(text, question.expected) ? "yes" : "no");
}

// Says if stored documents were ingested for another linker or profile.
void PrintFormNote(AskSession& session, const AskFlags& flags) {
  const std::string note = session.TakeFormNote();
  if (!flags.quiet && !note.empty()) std::fprintf(stderr, "[%s]\n", Printable(note).c_str());
}

// Prints the answer, or with --json adds it to `answers`.
absl::Status AnswerOne(AskSession& session, const AskFlags& flags, const Question& question, AskTotals* totals,
                       nlohmann::json* answers) {
  std::vector<infer::RequestDocument> documents;
  for (const encode::DocumentParts& wanted : question.documents)
    KVLINK_RETURN_IF_ERROR(session.AddStored(wanted, &documents));
  PrintFormNote(session, flags);
  if (flags.json) {
    KVLINK_ASSIGN_OR_RETURN(nlohmann::json answer, AskForJson(session, flags, question, documents, totals));
    answers->push_back(std::move(answer));
    return absl::OkStatus();
  }
  if (flags.compare) return Compare(session, flags, question, documents, totals);
  const auto chat = session.NewChat(session.linker(), std::move(documents));
  KVLINK_ASSIGN_OR_RETURN(const infer::Answer answer, Answer(*chat, flags, question.text, /*turn=*/0));
  totals->Add(question, answer, chat->stats(), nullptr);
  if (!flags.quiet) PrintJudgement(question, answer.text);
  return absl::OkStatus();
}

// A question that cannot be answered is reported, and the rest are still answered.
absl::Status AnswerQuestions(AskSession& session, const AskFlags& flags, const std::vector<Question>& questions) {
  AskTotals totals;
  nlohmann::json answers = nlohmann::json::array();
  int failed = 0;
  size_t asked = 0;
  for (; asked < questions.size() && !Interrupted() && !OutputFailed(); ++asked) {
    const Question& question = questions[asked];
    if (flags.words()) {
      absl::PrintF(
          "\n[%d/%d] %s\n  documents     %s\n", asked + 1, questions.size(), Printable(question.text),
          Printable(absl::StrJoin(question.documents, ", ", [](std::string* out, const encode::DocumentParts& parts) {
            out->append(Spelled(parts));
          })));
      std::fflush(stdout);
    }
    const absl::Status status = AnswerOne(session, flags, question, &totals, &answers);
    if (status.ok() || Interrupted()) continue;
    std::fprintf(stderr, "%s\n", OneLine(absl::StrCat("kvlink ask: question ", asked + 1), status.message()).c_str());
    if (flags.json) answers.push_back({{"question", question.text}, {"error", std::string(status.message())}});
    ++failed;
  }
  if (flags.json) PrintJson({{"answers", std::move(answers)}, {"totals", TotalsAsJson(totals)}});
  if (flags.words()) Print(TotalsInWords(totals, flags.compare));
  if (asked < questions.size() || Interrupted()) return absl::CancelledError("interrupted");
  if (failed == 0) return absl::OkStatus();
  return absl::AbortedError(absl::StrCat(failed, " of ", questions.size(), " questions were not answered"));
}

// The lines of standard input. A signal ends the wait for one.
class InputLines {
 public:
  // nullopt at the end, and once interrupted. A last line need not end.
  std::optional<std::string> Next() {
    size_t searched = 0, end;
    while ((end = read_.find('\n', searched)) == std::string::npos) {
      searched = read_.size();
      if (!SignalInterrupt().WaitReadable(STDIN_FILENO).ok()) return std::nullopt;
      char buffer[4096];
      const ssize_t n = read(STDIN_FILENO, buffer, sizeof(buffer));
      if (n < 0 && (errno == EINTR || errno == EAGAIN)) continue;
      if (n > 0) {
        read_.append(buffer, static_cast<size_t>(n));
        continue;
      }
      if (read_.empty()) return std::nullopt;
      return std::exchange(read_, {});
    }
    std::string line = read_.substr(0, end);
    read_.erase(0, end + 1);
    return line;
  }

 private:
  std::string read_;  // and not returned yet
};

absl::Status Converse(AskSession& session, const AskFlags& flags, std::vector<infer::RequestDocument> documents) {
  const auto chat = session.NewChat(session.linker(), std::move(documents));
  int turn = 0;
  if (!flags.question.empty()) KVLINK_RETURN_IF_ERROR(Answer(*chat, flags, flags.question, turn++).status());
  if (!flags.chat) return absl::OkStatus();
  const bool terminal = isatty(STDIN_FILENO) != 0;
  InputLines lines;
  while (!Interrupted()) {
    if (terminal) Print("> ");
    const std::optional<std::string> line = lines.Next();
    if (!line) break;
    const std::string question(absl::StripAsciiWhitespace(*line));
    if (question.empty()) continue;
    const absl::Status answered = Answer(*chat, flags, question, turn++).status();
    // Reaching the end of the context is not a failure of the conversation.
    if (absl::IsOutOfRange(answered) && turn > 1) {
      std::fprintf(stderr, "[%s; start a new conversation to continue]\n", Printable(answered.message()).c_str());
      return absl::OkStatus();
    }
    KVLINK_RETURN_IF_ERROR(answered);
  }
  return absl::OkStatus();
}

absl::Status AnswerAll(AskSession& session, const AskFlags& flags, const std::vector<Question>& questions,
                       std::vector<infer::RequestDocument> documents) {
  if (flags.compare) KVLINK_RETURN_IF_ERROR(session.WarmUp());
  if (!questions.empty()) return AnswerQuestions(session, flags, questions);
  AskTotals totals;
  const Question question{flags.question, {}, {}};
  if (flags.json) {
    KVLINK_ASSIGN_OR_RETURN(const nlohmann::json answer, AskForJson(session, flags, question, documents, &totals));
    PrintJson(answer);
    return absl::OkStatus();
  }
  if (!flags.compare) return Converse(session, flags, std::move(documents));
  return Compare(session, flags, question, documents, &totals);
}

}  // namespace

absl::Status RunAsk(absl::Span<char* const> args) {
  AskFlags flags;
  Arguments arguments("ask", "[QUESTION]", kAskSummary);
  KVLINK_RETURN_IF_ERROR(Parse(args, arguments, flags));
  if (arguments.help_wanted()) return absl::OkStatus();
  std::vector<Question> questions;
  if (!flags.questions.empty()) {
    KVLINK_ASSIGN_OR_RETURN(questions, ReadQuestions(flags.questions));
  }
  std::vector<encode::DocumentParts> stored;
  for (const std::string& id : flags.documents) stored.push_back({.id = id});
  for (const std::string& text : flags.parts) {
    KVLINK_ASSIGN_OR_RETURN(encode::DocumentParts parts, encode::ParseDocumentParts(text));
    stored.push_back(std::move(parts));
  }
  KVLINK_ASSIGN_OR_RETURN(const auto session, AskSession::Open(flags.ask));
  std::vector<infer::RequestDocument> documents;
  for (const encode::DocumentParts& wanted : stored) KVLINK_RETURN_IF_ERROR(session->AddStored(wanted, &documents));
  PrintFormNote(*session, flags);
  for (const std::string& path : flags.files) KVLINK_RETURN_IF_ERROR(session->AddFromFile(path, &documents));
  if (!flags.quiet && session->generator().options().device_buffer_bytes > 0 &&
      !session->generator().device_buffer().ok()) {
    std::fprintf(stderr, "[encodings come through the host: %s]\n",
                 std::string(session->generator().device_buffer().message()).c_str());
  }
  if (!flags.quiet && !session->note().empty()) std::fprintf(stderr, "[%s]\n", Printable(session->note()).c_str());
  if (!flags.quiet && documents.empty() && questions.empty()) {
    std::fprintf(stderr,
                 "[no documents given, the model answers from its own knowledge; add some with --doc ID (kvlink "
                 "inspect documents lists them) or --file PATH]\n");
  }
  const absl::Status status = AnswerAll(*session, flags, questions, std::move(documents));
  if (const absl::Status recording = session->generator().model().recording(); !flags.quiet && !recording.ok()) {
    std::fprintf(stderr, "[forward passes ran without device graphs: %s]\n", std::string(recording.message()).c_str());
  }
  return status;
}

}  // namespace kvlink::cli
