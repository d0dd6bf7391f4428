// Splits a template into its text and the tokens within its tags, with the whitespace rules that chat templates are
// written for: trim_blocks and lstrip_blocks on, keep_trailing_newline off, "-" and "+" beside a tag.
// Reference: https://jinja.palletsprojects.com/en/stable/templates/#whitespace-control
//
// Thread-safety: pure functions.
#ifndef KVLINK_WORKER_TEXT_TEMPLATE_JINJA_LEXER_H_
#define KVLINK_WORKER_TEXT_TEMPLATE_JINJA_LEXER_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "worker/text/template/jinja_text.h"

namespace kvlink::model::jinja {

struct Token {
  enum class Kind {
    kData,           // text between tags
    kBlockBegin,     // {%
    kBlockEnd,       // %}
    kVariableBegin,  // {{
    kVariableEnd,    // }}
    kName,
    kString,
    kInteger,
    kFloat,
    kOperator,  // in `name`
    kEnd,
  };
  Kind kind = Kind::kEnd;
  int line = 1;
  std::string name;     // kName, kOperator
  Text text;            // kData, kString
  int64_t integer = 0;  // kInteger
  double number = 0;    // kFloat
};

// INVALID_ARGUMENT "line N: ..." for an invalid template. The last token is kEnd.
absl::StatusOr<std::vector<Token>> Tokenize(absl::string_view source);

}  // namespace kvlink::model::jinja

#endif  // KVLINK_WORKER_TEXT_TEMPLATE_JINJA_LEXER_H_
