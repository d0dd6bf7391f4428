// Parses expressions by precedence, one function per level, as in Jinja's own parser.
#include "worker/text/template/jinja_expression_parser.h"

#include "base/status.h"

namespace kvlink::model::jinja {
namespace {

// Chains such as a + b + c + ... grow to the left without nesting; evaluation still descends along them.
constexpr int kMaxDepth = 256;

}  // namespace

ExpressionPtr ExpressionParser::New(Kind kind) const {
  auto expression = std::make_unique<Expression>();
  expression->kind = kind;
  expression->line = Peek().line;
  return expression;
}
absl::Status ExpressionParser::Add(Expression& parent, ExpressionPtr child) const {
  if (child != nullptr) parent.depth = std::max(parent.depth, child->depth + 1);
  parent.args.push_back(std::move(child));
  if (parent.depth <= kMaxDepth) return absl::OkStatus();
  return absl::ResourceExhaustedError(
      absl::StrCat("line ", Peek().line, ": an expression of more than ", kMaxDepth, " links"));
}
ExpressionParser::Result ExpressionParser::Join(Kind kind, std::string name, ExpressionPtr left,
                                                ExpressionPtr right) const {
  ExpressionPtr node = New(kind);
  node->name = std::move(name);
  if (left != nullptr) node->line = left->line;
  KVLINK_RETURN_IF_ERROR(Add(*node, std::move(left)));
  if (right != nullptr) KVLINK_RETURN_IF_ERROR(Add(*node, std::move(right)));
  return node;
}

ExpressionParser::Result ExpressionParser::ParseTuple(bool without_condition) {
  const auto one = [&] { return without_condition ? ParseOr() : ParseExpression(); };
  KVLINK_ASSIGN_OR_RETURN(ExpressionPtr first, one());
  if (!IsOperator(",")) return first;
  ExpressionPtr tuple = New(Kind::kTuple);
  KVLINK_RETURN_IF_ERROR(Add(*tuple, std::move(first)));
  while (TakeOperator(",")) {
    if (Is(Token::Kind::kVariableEnd) || Is(Token::Kind::kBlockEnd) || IsOperator(")")) break;
    KVLINK_ASSIGN_OR_RETURN(ExpressionPtr item, one());
    KVLINK_RETURN_IF_ERROR(Add(*tuple, std::move(item)));
  }
  return tuple;
}

ExpressionParser::Result ExpressionParser::ParseExpression() {
  Nest nest(this);
  KVLINK_RETURN_IF_ERROR(CheckNesting());
  KVLINK_ASSIGN_OR_RETURN(ExpressionPtr value, ParseOr());
  while (TakeName("if")) {
    ExpressionPtr node = New(Kind::kConditional);
    KVLINK_RETURN_IF_ERROR(Add(*node, std::move(value)));
    KVLINK_ASSIGN_OR_RETURN(ExpressionPtr condition, ParseOr());
    KVLINK_RETURN_IF_ERROR(Add(*node, std::move(condition)));
    ExpressionPtr otherwise;
    if (TakeName("else")) {
      KVLINK_ASSIGN_OR_RETURN(otherwise, ParseExpression());
    }
    KVLINK_RETURN_IF_ERROR(Add(*node, std::move(otherwise)));
    value = std::move(node);
  }
  return value;
}

ExpressionParser::Result ExpressionParser::ParseOr() {
  KVLINK_ASSIGN_OR_RETURN(ExpressionPtr left, ParseAnd());
  while (TakeName("or")) {
    KVLINK_ASSIGN_OR_RETURN(ExpressionPtr right, ParseAnd());
    KVLINK_ASSIGN_OR_RETURN(left, Join(Kind::kOr, "", std::move(left), std::move(right)));
  }
  return left;
}

ExpressionParser::Result ExpressionParser::ParseAnd() {
  KVLINK_ASSIGN_OR_RETURN(ExpressionPtr left, ParseNot());
  while (TakeName("and")) {
    KVLINK_ASSIGN_OR_RETURN(ExpressionPtr right, ParseNot());
    KVLINK_ASSIGN_OR_RETURN(left, Join(Kind::kAnd, "", std::move(left), std::move(right)));
  }
  return left;
}

ExpressionParser::Result ExpressionParser::ParseNot() {
  if (!TakeName("not")) return ParseCompare();
  Nest nest(this);
  KVLINK_RETURN_IF_ERROR(CheckNesting());
  KVLINK_ASSIGN_OR_RETURN(ExpressionPtr value, ParseNot());
  return Join(Kind::kNot, "", std::move(value), nullptr);
}

ExpressionParser::Result ExpressionParser::ParseCompare() {
  KVLINK_ASSIGN_OR_RETURN(ExpressionPtr left, ParseSum());
  ExpressionPtr node;
  while (true) {
    std::string op;
    for (const absl::string_view known : {"==", "!=", "<", "<=", ">", ">="}) {
      if (TakeOperator(known)) op = std::string(known);
    }
    if (op.empty() && TakeName("in")) op = "in";
    if (op.empty() && IsName("not") && IsName("in", 1)) {
      Next();
      Next();
      op = "not in";
    }
    if (op.empty()) return node != nullptr ? std::move(node) : std::move(left);
    if (node == nullptr) {
      KVLINK_ASSIGN_OR_RETURN(node, Join(Kind::kCompare, "", std::move(left), nullptr));
    }
    KVLINK_ASSIGN_OR_RETURN(ExpressionPtr right, ParseSum());
    KVLINK_RETURN_IF_ERROR(Add(*node, std::move(right)));
    node->names.push_back(std::move(op));
  }
}

ExpressionParser::Result ExpressionParser::ParseSum() {
  KVLINK_ASSIGN_OR_RETURN(ExpressionPtr left, ParseConcat());
  while (IsOperator("+") || IsOperator("-")) {
    std::string op = Next().name;
    KVLINK_ASSIGN_OR_RETURN(ExpressionPtr right, ParseConcat());
    KVLINK_ASSIGN_OR_RETURN(left, Join(Kind::kBinary, std::move(op), std::move(left), std::move(right)));
  }
  return left;
}

ExpressionParser::Result ExpressionParser::ParseConcat() {
  KVLINK_ASSIGN_OR_RETURN(ExpressionPtr left, ParseProduct());
  if (!IsOperator("~")) return left;
  KVLINK_ASSIGN_OR_RETURN(ExpressionPtr node, Join(Kind::kConcat, "", std::move(left), nullptr));
  while (TakeOperator("~")) {
    KVLINK_ASSIGN_OR_RETURN(ExpressionPtr right, ParseProduct());
    KVLINK_RETURN_IF_ERROR(Add(*node, std::move(right)));
  }
  return node;
}

ExpressionParser::Result ExpressionParser::ParseProduct() {
  KVLINK_ASSIGN_OR_RETURN(ExpressionPtr left, ParsePower());
  while (IsOperator("*") || IsOperator("/") || IsOperator("//") || IsOperator("%")) {
    std::string op = Next().name;
    KVLINK_ASSIGN_OR_RETURN(ExpressionPtr right, ParsePower());
    KVLINK_ASSIGN_OR_RETURN(left, Join(Kind::kBinary, std::move(op), std::move(left), std::move(right)));
  }
  return left;
}

ExpressionParser::Result ExpressionParser::ParsePower() {
  KVLINK_ASSIGN_OR_RETURN(ExpressionPtr left, ParseUnary(true));
  while (TakeOperator("**")) {
    KVLINK_ASSIGN_OR_RETURN(ExpressionPtr right, ParseUnary(true));
    KVLINK_ASSIGN_OR_RETURN(left, Join(Kind::kBinary, "**", std::move(left), std::move(right)));
  }
  return left;
}

ExpressionParser::Result ExpressionParser::ParseUnary(bool with_filters) {
  ExpressionPtr value;
  if (IsOperator("-") || IsOperator("+")) {
    Nest nest(this);
    KVLINK_RETURN_IF_ERROR(CheckNesting());
    const Kind kind = Next().name == "-" ? Kind::kNegative : Kind::kPositive;
    KVLINK_ASSIGN_OR_RETURN(value, ParseUnary(false));
    KVLINK_ASSIGN_OR_RETURN(value, Join(kind, "", std::move(value), nullptr));
  } else {
    KVLINK_ASSIGN_OR_RETURN(value, ParsePrimary());
  }
  KVLINK_ASSIGN_OR_RETURN(value, ParsePostfix(std::move(value)));
  if (!with_filters) return value;
  return ParseFilters(std::move(value), false);
}

ExpressionParser::Result ExpressionParser::ParsePrimary() {
  ExpressionPtr node = New(Kind::kLiteral);
  if (Is(Token::Kind::kString)) {
    Text text;
    while (Is(Token::Kind::kString)) text += Next().text;
    node->literal = Value::String(std::move(text));
    return node;
  }
  if (Is(Token::Kind::kInteger) || Is(Token::Kind::kFloat)) {
    const Token token = Next();
    node->literal = token.kind == Token::Kind::kInteger ? Value::Int(token.integer) : Value::Float(token.number);
    return node;
  }
  if (Is(Token::Kind::kName)) {
    const std::string name = Next().name;
    if (name == "true" || name == "True" || name == "false" || name == "False") {
      node->literal = Value::Bool(name[0] == 't' || name[0] == 'T');
    } else if (name == "none" || name == "None") {
      node->literal = Value::MakeNone();
    } else {
      node->kind = Kind::kName;
      node->name = name;
    }
    return node;
  }
  if (TakeOperator("(")) {
    if (TakeOperator(")")) {
      node->kind = Kind::kTuple;
      return node;
    }
    KVLINK_ASSIGN_OR_RETURN(node, ParseTuple(false));
    KVLINK_RETURN_IF_ERROR(ExpectOperator(")"));
    return node;
  }
  if (TakeOperator("[")) {
    node->kind = Kind::kList;
    while (!TakeOperator("]")) {
      if (!node->args.empty()) KVLINK_RETURN_IF_ERROR(ExpectOperator(","));
      if (TakeOperator("]")) break;
      KVLINK_ASSIGN_OR_RETURN(ExpressionPtr item, ParseExpression());
      KVLINK_RETURN_IF_ERROR(Add(*node, std::move(item)));
    }
    return node;
  }
  if (TakeOperator("{")) {
    node->kind = Kind::kDict;
    while (!TakeOperator("}")) {
      if (!node->args.empty()) KVLINK_RETURN_IF_ERROR(ExpectOperator(","));
      if (TakeOperator("}")) break;
      KVLINK_ASSIGN_OR_RETURN(ExpressionPtr key, ParseExpression());
      KVLINK_RETURN_IF_ERROR(Add(*node, std::move(key)));
      KVLINK_RETURN_IF_ERROR(ExpectOperator(":"));
      KVLINK_ASSIGN_OR_RETURN(ExpressionPtr value, ParseExpression());
      KVLINK_RETURN_IF_ERROR(Add(*node, std::move(value)));
    }
    return node;
  }
  return Error(absl::StrCat("expected an expression but found ", Describe()));
}

ExpressionParser::Result ExpressionParser::ParsePostfix(ExpressionPtr value) {
  while (true) {
    if (TakeOperator(".")) {
      if (Is(Token::Kind::kInteger)) {
        ExpressionPtr index = New(Kind::kLiteral);
        index->literal = Value::Int(Next().integer);
        KVLINK_ASSIGN_OR_RETURN(value, Join(Kind::kItem, "", std::move(value), std::move(index)));
        continue;
      }
      KVLINK_ASSIGN_OR_RETURN(std::string name, ExpectName());
      KVLINK_ASSIGN_OR_RETURN(value, Join(Kind::kAttribute, std::move(name), std::move(value), nullptr));
    } else if (TakeOperator("[")) {
      KVLINK_ASSIGN_OR_RETURN(value, ParseSubscript(std::move(value)));
    } else if (IsOperator("(")) {
      KVLINK_ASSIGN_OR_RETURN(value, ParseCall(Kind::kCall, "", std::move(value)));
    } else {
      return value;
    }
  }
}

ExpressionParser::Result ExpressionParser::ParseSubscript(ExpressionPtr value) {
  KVLINK_ASSIGN_OR_RETURN(ExpressionPtr node, Join(Kind::kItem, "", std::move(value), nullptr));
  ExpressionPtr parts[3];
  int part = 0;
  while (!IsOperator("]")) {
    if (TakeOperator(":")) {
      if (++part == 3) return Error("a slice takes three parts at most");
      continue;
    }
    if (parts[part] != nullptr) return Error(absl::StrCat("expected \"]\" but found ", Describe()));
    KVLINK_ASSIGN_OR_RETURN(parts[part], ParseExpression());
  }
  Next();
  if (part == 0 && parts[0] == nullptr) return Error("expected an index between \"[\" and \"]\"");
  if (part > 0) node->kind = Kind::kSlice;
  for (int i = 0; i < (part > 0 ? 3 : 1); ++i) KVLINK_RETURN_IF_ERROR(Add(*node, std::move(parts[i])));
  return node;
}

ExpressionParser::Result ExpressionParser::ParseCall(Kind kind, std::string name, ExpressionPtr value) {
  KVLINK_ASSIGN_OR_RETURN(ExpressionPtr node, Join(kind, std::move(name), std::move(value), nullptr));
  if (!TakeOperator("(")) return node;
  for (bool first = true; !TakeOperator(")"); first = false) {
    if (!first) KVLINK_RETURN_IF_ERROR(ExpectOperator(","));
    if (TakeOperator(")")) break;
    if (IsOperator("*") || IsOperator("**")) return Unimplemented(Peek().line, "a call with unpacked arguments");
    if (Is(Token::Kind::kName) && IsOperator("=", 1)) {
      std::string key = Next().name;
      Next();
      KVLINK_ASSIGN_OR_RETURN(ExpressionPtr argument, ParseExpression());
      node->depth = std::max(node->depth, argument->depth + 1);
      node->named.emplace_back(std::move(key), std::move(argument));
      continue;
    }
    if (!node->named.empty()) return Error("an argument without a name after one with a name");
    KVLINK_ASSIGN_OR_RETURN(ExpressionPtr argument, ParseExpression());
    KVLINK_RETURN_IF_ERROR(Add(*node, std::move(argument)));
  }
  return node;
}

ExpressionParser::Result ExpressionParser::ParseFilters(ExpressionPtr value, bool first_is_name) {
  while (true) {
    if (first_is_name || TakeOperator("|")) {
      first_is_name = false;
      KVLINK_ASSIGN_OR_RETURN(std::string name, ExpectName());
      KVLINK_ASSIGN_OR_RETURN(value, ParseCall(Kind::kFilter, std::move(name), std::move(value)));
    } else if (value != nullptr && TakeName("is")) {
      KVLINK_ASSIGN_OR_RETURN(value, ParseTest(std::move(value)));
    } else if (value != nullptr && IsOperator("(")) {
      KVLINK_ASSIGN_OR_RETURN(value, ParseCall(Kind::kCall, "", std::move(value)));
    } else {
      return value;
    }
  }
}

ExpressionParser::Result ExpressionParser::ParseTest(ExpressionPtr value) {
  const bool negated = TakeName("not");
  KVLINK_ASSIGN_OR_RETURN(std::string name, ExpectName());
  ExpressionPtr test;
  const bool starts_argument = Is(Token::Kind::kString) || Is(Token::Kind::kInteger) || Is(Token::Kind::kFloat) ||
                               IsOperator("[") || IsOperator("{") ||
                               (Is(Token::Kind::kName) && !IsName("else") && !IsName("or") && !IsName("and") &&
                                !IsName("if") && !IsName("in") && !IsName("not"));
  if (IsName("is")) return Error("tests cannot be chained with \"is\"");
  if (IsOperator("(") || !starts_argument) {
    KVLINK_ASSIGN_OR_RETURN(test, ParseCall(Kind::kTest, std::move(name), std::move(value)));
  } else {
    KVLINK_ASSIGN_OR_RETURN(ExpressionPtr argument, ParsePrimary());
    KVLINK_ASSIGN_OR_RETURN(argument, ParsePostfix(std::move(argument)));
    KVLINK_ASSIGN_OR_RETURN(test, Join(Kind::kTest, std::move(name), std::move(value), std::move(argument)));
  }
  return negated ? Join(Kind::kNot, "", std::move(test), nullptr) : Result(std::move(test));
}

}  // namespace kvlink::model::jinja
