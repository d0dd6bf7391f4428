// The questions for `--questions` of `kvlink ask` and `kvlink eval`, and whether an answer contains what was expected.
// Thread-safety: pure functions over the file system.
#ifndef KVLINK_WORKER_CLI_QUESTIONS_H_
#define KVLINK_WORKER_CLI_QUESTIONS_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "worker/encode/stored_document.h"

namespace kvlink::cli {

struct Question {
  std::string text;
  std::vector<encode::DocumentParts> documents;  // in order
  std::vector<std::string> expected;  // accepted spellings, the one to display first; empty: nothing is expected
};

// JSON lines: {"question": "...", "documents": ["id", ...], "answer": "..." or ["...", ...]}. In place of an id, {"id":
// "...", "parts": "2-5"} selects some parts of a document. Other members and empty lines are ignored. "answer" is
// optional, but contains no empty text. "-" is standard input. INVALID_ARGUMENT naming file and line, and for a file
// without questions; errors of ByteStream::Open and Read.
absl::StatusOr<std::vector<Question>> ReadQuestions(const std::string& path);

// Whether `answer` contains one of `spellings`, ignoring the case of ASCII letters.
bool Holds(absl::string_view answer, const std::vector<std::string>& spellings);

}  // namespace kvlink::cli

#endif  // KVLINK_WORKER_CLI_QUESTIONS_H_
