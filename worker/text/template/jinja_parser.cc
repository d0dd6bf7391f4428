// The statement half of the template parser.
#include <algorithm>
#include <initializer_list>
#include <utility>

#include "absl/status/status.h"
#include "absl/strings/str_cat.h"
#include "base/status.h"
#include "worker/text/template/jinja_expression_parser.h"

namespace kvlink::model::jinja {
namespace {

class Parser : private ExpressionParser {
 public:
  explicit Parser(std::vector<Token> tokens) : ExpressionParser(std::move(tokens)) {}

  absl::StatusOr<Body> Run() {
    Body body;
    KVLINK_RETURN_IF_ERROR(ParseBody({}, body).status());
    return body;
  }

 private:
  // Parses statements up to one of `ends` and returns its name, positioned after it. Empty `ends`: parses to the end.
  absl::StatusOr<std::string> ParseBody(std::initializer_list<absl::string_view> ends, Body& body) {
    Nest nest(this);
    KVLINK_RETURN_IF_ERROR(CheckNesting());
    while (true) {
      const int line = Peek().line;
      if (Is(Token::Kind::kEnd)) {
        if (ends.size() == 0) return std::string();
        return Error(absl::StrCat("the template ends before \"", *(ends.end() - 1), "\""));
      }
      Statement statement;
      statement.line = line;
      if (Is(Token::Kind::kData)) {
        statement.text = Next().text;
      } else if (Is(Token::Kind::kVariableBegin)) {
        Next();
        statement.kind = Statement::Kind::kOutput;
        KVLINK_ASSIGN_OR_RETURN(statement.value, ParseTuple(false));
        if (!Is(Token::Kind::kVariableEnd)) return Error(absl::StrCat("expected \"}}\" but found ", Describe()));
        Next();
      } else {
        Next();
        KVLINK_ASSIGN_OR_RETURN(const std::string name, ExpectName());
        if (std::find(ends.begin(), ends.end(), name) != ends.end()) return name;
        KVLINK_RETURN_IF_ERROR(ParseStatement(name, statement));
      }
      body.push_back(std::move(statement));
    }
  }

  absl::Status EndBody(absl::string_view end, Body& body) {
    KVLINK_RETURN_IF_ERROR(ExpectBlockEnd());
    KVLINK_RETURN_IF_ERROR(ParseBody({end}, body).status());
    if (end == "endmacro" && Is(Token::Kind::kName)) Next();
    return ExpectBlockEnd();
  }

  absl::Status ParseStatement(const std::string& name, Statement& statement) {
    if (name == "if") return ParseIf(statement);
    if (name == "for") return ParseFor(statement);
    if (name == "set") return ParseSet(statement);
    if (name == "macro") return ParseMacro(statement);
    if (name == "with") return ParseWith(statement);
    if (name == "filter") {
      statement.kind = Statement::Kind::kFilter;
      KVLINK_ASSIGN_OR_RETURN(statement.value, ParseFilters(nullptr, /*first_is_name=*/true));
      return EndBody("endfilter", statement.body);
    }
    // transformers uses this tag to mark what an assistant wrote; it renders as its body.
    if (name == "generation") {
      statement.kind = Statement::Kind::kScope;
      return EndBody("endgeneration", statement.body);
    }
    if (name == "break" || name == "continue") {
      if (loops_ == 0) return Error(absl::StrCat("\"", name, "\" outside of a loop"));
      statement.kind = name == "break" ? Statement::Kind::kBreak : Statement::Kind::kContinue;
      return ExpectBlockEnd();
    }
    for (const absl::string_view known :
         {"block", "extends", "include", "import", "from", "call", "autoescape", "do", "trans"}) {
      if (name == known) return Unimplemented(statement.line, absl::StrCat("the statement \"", name, "\""));
    }
    return Error(absl::StrCat("unexpected statement \"", name, "\""));
  }

  absl::Status ParseIf(Statement& statement) {
    statement.kind = Statement::Kind::kIf;
    while (true) {
      Statement::Branch branch;
      KVLINK_ASSIGN_OR_RETURN(branch.condition, ParseTuple(false));
      KVLINK_RETURN_IF_ERROR(ExpectBlockEnd());
      KVLINK_ASSIGN_OR_RETURN(std::string end, ParseBody({"elif", "else", "endif"}, branch.body));
      statement.branches.push_back(std::move(branch));
      if (end == "elif") continue;
      if (end == "else") {
        Statement::Branch otherwise;
        KVLINK_RETURN_IF_ERROR(EndBody("endif", otherwise.body));
        statement.branches.push_back(std::move(otherwise));
        return absl::OkStatus();
      }
      return ExpectBlockEnd();
    }
  }

  absl::Status ParseTargets(Statement& statement) {
    const bool brackets = TakeOperator("(");
    do {
      if (IsOperator("(")) return Unimplemented(Peek().line, "a nested tuple of targets");
      KVLINK_ASSIGN_OR_RETURN(std::string target, ExpectName());
      statement.targets.push_back(std::move(target));
    } while (TakeOperator(","));
    return brackets ? ExpectOperator(")") : absl::OkStatus();
  }

  absl::Status ParseFor(Statement& statement) {
    statement.kind = Statement::Kind::kFor;
    KVLINK_RETURN_IF_ERROR(ParseTargets(statement));
    if (!TakeName("in")) return Error(absl::StrCat("expected \"in\" but found ", Describe()));
    KVLINK_ASSIGN_OR_RETURN(statement.value, ParseTuple(/*without_condition=*/true));
    if (TakeName("if")) {
      KVLINK_ASSIGN_OR_RETURN(statement.filter, ParseExpression());
    }
    if (IsName("recursive")) return Unimplemented(Peek().line, "a recursive loop");
    KVLINK_RETURN_IF_ERROR(ExpectBlockEnd());
    ++loops_;
    KVLINK_ASSIGN_OR_RETURN(const std::string end, ParseBody({"else", "endfor"}, statement.body));
    --loops_;
    return end == "else" ? EndBody("endfor", statement.otherwise) : ExpectBlockEnd();
  }

  absl::Status ParseSet(Statement& statement) {
    statement.kind = Statement::Kind::kSet;
    if (Is(Token::Kind::kName) && IsOperator(".", 1)) {
      statement.name = Next().name;
      Next();
      KVLINK_ASSIGN_OR_RETURN(std::string target, ExpectName());
      statement.targets.push_back(std::move(target));
    } else {
      KVLINK_RETURN_IF_ERROR(ParseTargets(statement));
    }
    if (TakeOperator("=")) {
      KVLINK_ASSIGN_OR_RETURN(statement.value, ParseTuple(false));
      return ExpectBlockEnd();
    }
    if (statement.targets.size() != 1) return Error("a set block takes one name");
    statement.kind = Statement::Kind::kSetBlock;
    if (IsOperator("|")) {
      KVLINK_ASSIGN_OR_RETURN(statement.value, ParseFilters(nullptr, false));
    }
    return EndBody("endset", statement.body);
  }

  absl::Status ParseMacro(Statement& statement) {
    statement.kind = Statement::Kind::kMacro;
    KVLINK_ASSIGN_OR_RETURN(statement.name, ExpectName());
    KVLINK_RETURN_IF_ERROR(ExpectOperator("("));
    while (!TakeOperator(")")) {
      if (!statement.parameters.empty()) KVLINK_RETURN_IF_ERROR(ExpectOperator(","));
      if (TakeOperator(")")) break;
      KVLINK_ASSIGN_OR_RETURN(std::string name, ExpectName());
      ExpressionPtr value;
      if (TakeOperator("=")) {
        KVLINK_ASSIGN_OR_RETURN(value, ParseExpression());
      }
      statement.parameters.emplace_back(std::move(name), std::move(value));
    }
    const int loops = std::exchange(loops_, 0);
    KVLINK_RETURN_IF_ERROR(EndBody("endmacro", statement.body));
    loops_ = loops;
    return absl::OkStatus();
  }

  absl::Status ParseWith(Statement& statement) {
    statement.kind = Statement::Kind::kWith;
    while (!Is(Token::Kind::kBlockEnd)) {
      if (!statement.parameters.empty()) KVLINK_RETURN_IF_ERROR(ExpectOperator(","));
      KVLINK_ASSIGN_OR_RETURN(std::string name, ExpectName());
      KVLINK_RETURN_IF_ERROR(ExpectOperator("="));
      KVLINK_ASSIGN_OR_RETURN(ExpressionPtr value, ParseExpression());
      statement.parameters.emplace_back(std::move(name), std::move(value));
    }
    return EndBody("endwith", statement.body);
  }

  int loops_ = 0;
};

}  // namespace

absl::StatusOr<Body> ParseTemplate(absl::string_view source) {
  KVLINK_ASSIGN_OR_RETURN(std::vector<Token> tokens, Tokenize(source));
  return Parser(std::move(tokens)).Run();
}

}  // namespace kvlink::model::jinja
