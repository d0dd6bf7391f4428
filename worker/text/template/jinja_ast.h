// The tree of a parsed template. Immutable after parsing; owned by ChatTemplate.
#ifndef KVLINK_WORKER_TEXT_TEMPLATE_JINJA_AST_H_
#define KVLINK_WORKER_TEXT_TEMPLATE_JINJA_AST_H_

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "worker/text/template/jinja_value.h"

namespace kvlink::model::jinja {

struct Expression;
using ExpressionPtr = std::unique_ptr<Expression>;

struct Expression {
  enum class Kind {
    kLiteral,      // literal
    kName,         // name
    kList,         // args
    kTuple,        // args
    kDict,         // args: key, value, key, value, ...
    kAttribute,    // args[0].name
    kItem,         // args[0][args[1]]
    kSlice,        // args[0][args[1]:args[2]:args[3]], any of the three may be null
    kCall,         // args[0](args[1..], named)
    kFilter,       // args[0] | name(args[1..], named)
    kTest,         // args[0] is name(args[1..])
    kNot,          // not args[0]
    kNegative,     // -args[0]
    kPositive,     // +args[0]
    kBinary,       // args[0] name args[1]
    kConcat,       // args joined by ~
    kCompare,      // args[0] names[0] args[1] names[1] args[2] ...
    kAnd,          // args[0] and args[1]
    kOr,           // args[0] or args[1]
    kConditional,  // args[0] if args[1] else args[2], the last may be null
  };
  Kind kind = Kind::kLiteral;
  int line = 0;
  int depth = 1;
  std::string name;
  std::vector<std::string> names;
  Value literal;
  std::vector<ExpressionPtr> args;
  std::vector<std::pair<std::string, ExpressionPtr>> named;
};

using Body = std::vector<Statement>;

struct Statement {
  enum class Kind {
    kText,      // text
    kOutput,    // value
    kIf,        // branches
    kFor,       // targets in value if filter: body, otherwise
    kSet,       // targets = value; or name.targets[0] = value
    kSetBlock,  // targets[0] = body, through the filters of `value` (may be null)
    kMacro,     // name(parameters): body
    kWith,      // parameters: body
    kFilter,    // body through the filters of `value`
    kScope,     // body
    kBreak,
    kContinue,
  };
  struct Branch {
    ExpressionPtr condition;  // null: else
    Body body;
  };
  Kind kind = Kind::kText;
  int line = 0;
  Text text;
  std::string name;
  std::vector<std::string> targets;
  ExpressionPtr value;
  ExpressionPtr filter;
  std::vector<Branch> branches;
  std::vector<std::pair<std::string, ExpressionPtr>> parameters;  // a null expression: no default
  Body body;
  Body otherwise;
};

// INVALID_ARGUMENT "line N: ..." for syntax errors, UNIMPLEMENTED naming an unsupported statement, RESOURCE_EXHAUSTED
// for nesting.
absl::StatusOr<Body> ParseTemplate(absl::string_view source);

}  // namespace kvlink::model::jinja

#endif  // KVLINK_WORKER_TEXT_TEMPLATE_JINJA_AST_H_
