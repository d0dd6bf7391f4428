// Files of examples, as bytes of a file on: whatever is read has the shape that worker/data/example.h promises, and an
// error stays. The first byte says the format: 'a' and the letters after it those of AllFormats(), then text as JSON
// lines, and Multi-News in two files, which the first empty line divides.
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <string>

#include "base/utf8.h"
#include "tests/support/scratch_directory.h"
#include "worker/data/reader.h"

namespace {

using namespace kvlink::data;

void Check(bool right) {
  if (!right) std::abort();
}

bool HasText(const std::string& text) { return !text.empty() && kvlink::ValidUtf8Prefix(text) == text.size(); }

void CheckDocuments(const std::vector<Document>& documents) {
  Check(!documents.empty());
  for (const Document& document : documents) Check(HasText(document.text));
}

void CheckTask(const Question& question) {
  CheckDocuments(question.documents);
  Check(HasText(question.question) && !question.answers.empty() && question.candidates.size() != 1);
  for (const std::string& answer : question.answers) Check(HasText(answer));
  if (!question.candidates.empty()) Check(question.candidates[0] == question.answers[0]);
  int64_t last = -1;
  for (const int64_t index : question.gold) {
    Check(index > last && index < static_cast<int64_t>(question.documents.size()));
    last = index;
  }
}
void CheckTask(const Summary& summary) {
  CheckDocuments(summary.documents);
  Check(HasText(summary.instruction) && HasText(summary.summary));
}
void CheckTask(const Chat& chat) {
  bool answered = false;
  for (const Turn& turn : chat.turns) answered = answered || turn.role == Turn::Role::kAssistant;
  Check(answered);
}
void CheckTask(const Text& text) { Check(HasText(text.text)); }

void Write(const std::string& path, const std::string& bytes) { std::ofstream(path, std::ios::binary) << bytes; }

void ReadAll(Format format, const std::string& path) {
  constexpr int kExamples = 100;  // a few compressed bytes can hold millions
  ReaderOptions options;
  options.max_skipped = kExamples;
  options.max_example_bytes = 1024;
  options.passage_bytes = 64;
  options.needle_documents = 3;
  const auto reader = Reader::Open(format, path, options);
  if (!reader.ok()) return;
  for (int i = 0; i < kExamples; ++i) {
    const auto example = (*reader)->Next();
    if (!example.ok()) {
      Check((*reader)->Next().status() == example.status());
      return;
    }
    if (!example->has_value()) {
      const auto after = (*reader)->Next();
      Check(after.ok() && !after->has_value());
      return;
    }
    Check(!(*example)->id.empty() && !(*example)->kind.empty());
    std::visit([](const auto& task) { CheckTask(task); }, (*example)->task);
  }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  static const kvlink::testing::ScratchDirectory directory(/*in_memory=*/true);
  if (size == 0) return 0;
  const std::string bytes(reinterpret_cast<const char*>(data) + 1, size - 1);
  const size_t formats = AllFormats().size();
  const size_t kind = static_cast<uint8_t>(data[0] - 'a') % (formats + 2);
  const std::string path = directory.path() + "/data";
  if (kind == formats + 1) {
    const size_t end = bytes.find("\n\n");
    Write(path + ".src", bytes.substr(0, end));
    Write(path + ".tgt", end == std::string::npos ? "" : bytes.substr(end + 2));
    ReadAll(Format::kMultiNews, path + ".src");
  } else if (kind == formats) {
    Write(path + ".jsonl", bytes);
    ReadAll(Format::kText, path + ".jsonl");
  } else {
    Write(path, bytes);
    ReadAll(AllFormats()[kind], path);
  }
  return 0;
}
