// The questions that `kvlink ask --questions` answers, and whether an answer holds what was expected.
// Thread-safety: pure functions over the file system.
#ifndef KVLINK_WORKER_CLI_QUESTIONS_H_
#define KVLINK_WORKER_CLI_QUESTIONS_H_

#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "worker/cli/document_parts.h"

namespace kvlink::cli {

struct Question {
  std::string text;
  std::vector<DocumentParts> documents;  // in order
  std::vector<std::string> expected;     // accepted spellings, the one to show first; empty: nothing is expected
};

// JSON lines: {"question": "...", "documents": ["id", ...], "answer": "..." or ["...", ...]}; in place of an id,
// {"id": "...", "parts": "2-5"} takes some parts of a document. Other members are ignored, and so are empty lines.
// "answer" may be missing; where it is there, it holds no empty text. "-" is standard input. INVALID_ARGUMENT naming
// file and line, and for a file without questions; errors of ByteStream::Open and Read.
absl::StatusOr<std::vector<Question>> ReadQuestions(const std::string& path);

// Whether `answer` holds one of `spellings`; ASCII letters match in either case.
bool Holds(absl::string_view answer, const std::vector<std::string>& spellings);

}  // namespace kvlink::cli

#endif  // KVLINK_WORKER_CLI_QUESTIONS_H_
