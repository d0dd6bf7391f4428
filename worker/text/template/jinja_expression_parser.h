// The expression half of the template parser: recursive descent with the precedences of Jinja 3 (filters and tests bind
// tighter than any operator). jinja_parser.cc builds statements on top of it.
//
// Thread-safety: one parser serves one template on one thread.
#ifndef KVLINK_WORKER_TEXT_TEMPLATE_JINJA_EXPRESSION_PARSER_H_
#define KVLINK_WORKER_TEXT_TEMPLATE_JINJA_EXPRESSION_PARSER_H_

#include <algorithm>
#include <string>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "worker/text/template/jinja_ast.h"
#include "worker/text/template/jinja_lexer.h"

namespace kvlink::model::jinja {

class ExpressionParser {
 protected:
  using Kind = Expression::Kind;
  using Result = absl::StatusOr<ExpressionPtr>;

  explicit ExpressionParser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}

  // Counts the depth of the descent.
  class Nest {
   public:
    explicit Nest(ExpressionParser* parser) : parser_(parser) { ++parser_->nesting_; }
    ~Nest() { --parser_->nesting_; }
    Nest(const Nest&) = delete;
    Nest& operator=(const Nest&) = delete;

   private:
    ExpressionParser* const parser_;
  };

  const Token& Peek(size_t ahead = 0) const { return tokens_[std::min(at_ + ahead, tokens_.size() - 1)]; }
  Token Next() { return tokens_[at_ + 1 < tokens_.size() ? at_++ : at_]; }
  bool Is(Token::Kind kind) const { return Peek().kind == kind; }
  bool IsOperator(absl::string_view op, size_t ahead = 0) const {
    return Peek(ahead).kind == Token::Kind::kOperator && Peek(ahead).name == op;
  }
  bool IsName(absl::string_view name, size_t ahead = 0) const {
    return Peek(ahead).kind == Token::Kind::kName && Peek(ahead).name == name;
  }
  bool TakeOperator(absl::string_view op) {
    if (!IsOperator(op)) return false;
    Next();
    return true;
  }
  bool TakeName(absl::string_view name) {
    if (!IsName(name)) return false;
    Next();
    return true;
  }
  absl::Status Error(absl::string_view what) const {
    return absl::InvalidArgumentError(absl::StrCat("line ", Peek().line, ": ", what));
  }
  absl::Status Unimplemented(int line, absl::string_view what) const {
    return absl::UnimplementedError(absl::StrCat("line ", line, ": ", what, " is not supported in chat templates"));
  }
  std::string Describe() const {
    switch (Peek().kind) {
      case Token::Kind::kName:
      case Token::Kind::kOperator:
        return absl::StrCat("\"", Peek().name, "\"");
      case Token::Kind::kBlockEnd:
        return "\"%}\"";
      case Token::Kind::kVariableEnd:
        return "\"}}\"";
      case Token::Kind::kEnd:
        return "the end of the template";
      case Token::Kind::kString:
        return "a string";
      default:
        return "a number";
    }
  }
  absl::Status ExpectOperator(absl::string_view op) {
    if (TakeOperator(op)) return absl::OkStatus();
    return Error(absl::StrCat("expected \"", op, "\" but found ", Describe()));
  }
  absl::StatusOr<std::string> ExpectName() {
    if (!Is(Token::Kind::kName)) return Error(absl::StrCat("expected a name but found ", Describe()));
    return Next().name;
  }
  absl::Status ExpectBlockEnd() {
    if (!Is(Token::Kind::kBlockEnd)) return Error(absl::StrCat("expected \"%}\" but found ", Describe()));
    Next();
    return absl::OkStatus();
  }
  absl::Status CheckNesting() const {
    if (nesting_ <= kMaxNesting) return absl::OkStatus();
    return absl::ResourceExhaustedError(absl::StrCat("line ", Peek().line, ": nested deeper than ", kMaxNesting));
  }

  ExpressionPtr New(Kind kind) const;
  // Appends an operand (which may be null).
  absl::Status Add(Expression& parent, ExpressionPtr child) const;
  Result Join(Kind kind, std::string name, ExpressionPtr left, ExpressionPtr right) const;
  // a, b, c: a tuple if there is a comma. `without_condition`: leaves an "if" to the caller.
  Result ParseTuple(bool without_condition);
  Result ParseExpression();
  Result ParseOr();
  Result ParseAnd();
  Result ParseNot();
  Result ParseCompare();
  Result ParseSum();
  Result ParseConcat();
  Result ParseProduct();
  Result ParsePower();
  Result ParseUnary(bool with_filters);
  Result ParsePrimary();
  Result ParsePostfix(ExpressionPtr value);
  Result ParseSubscript(ExpressionPtr value);
  // The arguments in parentheses; `value` is the first operand (null in the filters of a block).
  Result ParseCall(Kind kind, std::string name, ExpressionPtr value);
  // Filters, tests and calls after a value. `first_is_name`: starts at the name of a filter, as in a filter block.
  Result ParseFilters(ExpressionPtr value, bool first_is_name);
  Result ParseTest(ExpressionPtr value);

  int nesting_ = 0;

 private:
  std::vector<Token> tokens_;
  size_t at_ = 0;
};

}  // namespace kvlink::model::jinja

#endif  // KVLINK_WORKER_TEXT_TEMPLATE_JINJA_EXPRESSION_PARSER_H_
