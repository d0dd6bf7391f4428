// Chat templates against Jinja (tests/golden/make_templates.py), the trust of what they write, marks, bounds and
// errors.
#include "worker/text/template/chat_template.h"

#include <algorithm>
#include <fstream>
#include <iterator>
#include <map>
#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests_source_dir.h"
#include "worker/text/template/jinja_evaluator.h"

namespace kvlink::model {
namespace {

using ::testing::HasSubstr;
using Json = nlohmann::ordered_json;

std::string ReadFile(const std::string& name) {
  const std::string path = absl::StrCat(KVLINK_SOURCE_DIR, "/tests/golden/", name);
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(file.good()) << path;
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

const Json& Golden() {
  static const Json* golden = new Json(Json::parse(ReadFile("templates.json")));
  return *golden;
}

std::string Text(const std::vector<RenderedSpan>& spans) {
  std::string text;
  for (const RenderedSpan& span : spans) text += span.mark >= 0 ? absl::StrCat("[mark ", span.mark, "]") : span.text;
  return text;
}

std::vector<ChatMessage> Messages(const Json& json) {
  std::vector<ChatMessage> messages;
  for (const Json& message : json) {
    messages.push_back({message["role"].get<std::string>(), {{message["content"].get<std::string>()}}});
  }
  return messages;
}

ChatMessage User(std::string content) { return {"user", {{std::move(content)}}}; }

absl::StatusOr<std::vector<RenderedSpan>> Render(absl::string_view source, const std::vector<ChatMessage>& messages,
                                                 const ChatOptions& options = {}) {
  absl::StatusOr<std::unique_ptr<ChatTemplate>> parsed = ChatTemplate::Parse(source);
  if (!parsed.ok()) return parsed.status();
  return (*parsed)->Render(messages, options);
}

jinja::Value ToValue(const Json& json) {
  if (json.is_null()) return jinja::Value::MakeNone();
  if (json.is_boolean()) return jinja::Value::Bool(json.get<bool>());
  if (json.is_number_float()) return jinja::Value::Float(json.get<double>());
  if (json.is_number()) return jinja::Value::Int(json.get<int64_t>());
  if (json.is_string()) return jinja::Value::String(*jinja::DecodeText(json.get<std::string>(), /*trusted=*/false));
  if (json.is_array()) {
    std::vector<jinja::Value> items;
    for (const Json& item : json) items.push_back(ToValue(item));
    return jinja::Value::MakeList(std::move(items));
  }
  std::vector<std::pair<jinja::Value, jinja::Value>> entries;
  for (const auto& [key, value] : json.items()) entries.emplace_back(jinja::Value::String(key), ToValue(value));
  return jinja::Value::MakeDict(std::move(entries));
}

absl::StatusOr<jinja::Text> RenderJson(const std::string& source, const Json& variables) {
  absl::StatusOr<jinja::Body> body = jinja::ParseTemplate(source);
  if (!body.ok()) return body.status();
  jinja::Variables values;
  for (const auto& [name, value] : variables.items()) values.emplace_back(name, ToValue(value));
  return jinja::Evaluate(*body, values, Golden()["date"].get<std::string>());
}

// The golden says "raised: <text>" for raise_exception and "error" for all else.
void ExpectError(const absl::Status& status, const std::string& error) {
  ASSERT_FALSE(status.ok()) << "expected " << error;
  EXPECT_EQ(std::count(status.message().begin(), status.message().end(), '\n'), 0) << status;
  if (absl::StartsWith(error, "raised: ")) {
    EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition) << status;
    EXPECT_EQ(status.message(), error.substr(8));
  } else {
    EXPECT_TRUE(absl::IsInvalidArgument(status) || absl::IsUnimplemented(status)) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("line ")) << status;
  }
}

// One letter for each character, t or u.
std::string TrustOf(const std::vector<RenderedSpan>& spans) {
  std::string letters;
  for (const RenderedSpan& span : spans) {
    const auto characters = jinja::DecodeText(span.text, true)->size();
    letters.append(characters, span.trusted ? 't' : 'u');
  }
  return letters;
}

TEST(ChatTemplateTest, FamiliesEqualJinja) {
  std::map<std::string, std::unique_ptr<ChatTemplate>> templates;
  int compared = 0;
  for (const Json& golden : Golden()["cases"]) {
    if (!golden.contains("conversation")) continue;
    const std::string name = golden["template"];
    SCOPED_TRACE(absl::StrCat(name, " ", golden["conversation"].get<std::string>(), " generate ",
                              golden["generate"].get<bool>()));
    if (templates[name] == nullptr) {
      auto parsed = ChatTemplate::Parse(ReadFile(absl::StrCat("templates/", name, ".jinja")));
      ASSERT_TRUE(parsed.ok()) << parsed.status();
      templates[name] = *std::move(parsed);
    }
    ChatOptions options;
    options.add_generation_prompt = golden["generate"];
    options.enable_thinking = golden["thinking"];
    options.bos_token = golden["bos"];
    options.eos_token = golden["eos"];
    options.date = Golden()["date"];
    const auto spans = templates[name]->Render(
        Messages(Golden()["conversations"][golden["conversation"].get<std::string>()]), options);
    if (golden.contains("error")) {
      ExpectError(spans.status(), golden["error"]);
      continue;
    }
    ASSERT_TRUE(spans.ok()) << spans.status();
    EXPECT_EQ(Text(*spans), golden["text"].get<std::string>());
    ++compared;
    if (!golden.contains("trust")) continue;
    const std::string letters = TrustOf(*spans);
    size_t at = 0;
    for (const Json& run : golden["trust"]) {
      for (int i = 0; i < run[1].get<int>(); ++i, ++at) {
        ASSERT_LT(at, letters.size());
        if (run[0] != "?") {
          ASSERT_EQ(letters[at], run[0].get<std::string>()[0]) << "character " << at << " of " << Text(*spans);
        }
      }
    }
    EXPECT_EQ(at, letters.size());
  }
  EXPECT_GT(compared, 400);
}

TEST(ChatTemplateTest, ToolsEqualJinja) {
  int compared = 0;
  for (const Json& golden : Golden()["cases"]) {
    if (!golden.contains("variables")) continue;
    const std::string name = golden["template"];
    SCOPED_TRACE(absl::StrCat(name, " ", golden["name"].get<std::string>()));
    const auto text = RenderJson(ReadFile(absl::StrCat("templates/", name, ".jinja")), golden["variables"]);
    if (golden.contains("error")) {
      ExpectError(text.status(), golden["error"]);
      continue;
    }
    ASSERT_TRUE(text.ok()) << text.status();
    EXPECT_EQ(jinja::EncodeText(*text), golden["text"].get<std::string>());
    ++compared;
  }
  EXPECT_GT(compared, 25);
}

TEST(ChatTemplateTest, FeaturesEqualJinja) {
  for (const Json& golden : Golden()["features"]) {
    const std::string source = golden["source"];
    SCOPED_TRACE(source);
    const auto text = RenderJson(source, Golden()["variables"]);
    if (golden.contains("error")) {
      ExpectError(text.status(), golden["error"]);
    } else {
      EXPECT_TRUE(text.ok()) << text.status();
      EXPECT_EQ(text.ok() ? jinja::EncodeText(*text) : "", golden["text"].get<std::string>());
    }
  }
}

TEST(ChatTemplateTest, EachCharacterKeepsItsTrust) {
  const std::vector<ChatMessage> messages = {User(" a<b \"c\" ")};
  const auto trust = [&](absl::string_view source) {
    const auto spans = Render(absl::StrCat("{% set c = messages[0].content %}", source), messages);
    EXPECT_TRUE(spans.ok()) << spans.status();
    std::string out;
    if (spans.ok()) {
      for (const RenderedSpan& span : *spans) absl::StrAppend(&out, span.trusted ? "T(" : "U(", span.text, ")");
    }
    return out;
  };
  EXPECT_EQ(trust("<|x|>{{ c }}<|y|>"), "T(<|x|>)U( a<b \"c\" )T(<|y|>)");
  EXPECT_EQ(trust("{{ 'x' + c | trim ~ 'y' }}"), "T(x)U(a<b \"c\")T(y)");
  EXPECT_EQ(trust("{{ c.replace('<', '|') }}"), "U( a)T(|)U(b \"c\" )");
  EXPECT_EQ(trust("{{ 'a<b'.replace('<', c[1]) }}"), "T(a)U(a)T(b)");
  EXPECT_EQ(trust("{{ c | tojson }}"), "T(\")U( a<b \\\"c\\\" )T(\")");
  EXPECT_EQ(trust("{{ [c[1], 'k'] }}"), "T([')U(a)T(', 'k'])");
  EXPECT_EQ(trust("{{ c[1:4] | upper }}{{ c[1:4][::-1] }}"), "U(A<Bb<a)");
  EXPECT_EQ(trust("{{ c.split('<') | join('<') }}"), "U( a)T(<)U(b \"c\" )");
  EXPECT_EQ(trust("{% set x %}<{{ c[1] }}>{% endset %}{{ x | upper }}"), "T(<)U(A)T(>)");
  EXPECT_EQ(trust("{% macro m(v) %}<{{ v }}>{% endmacro %}{{ m(c[1]) }}{{ m('k') }}"), "T(<)U(a)T(><k>)");
  EXPECT_EQ(trust("{{ c[1] * 2 }}{{ c | length }}{{ c[1] == 'a' }}{{ c | first | string | list }}"),
            "U(aa)T(9True[')U( )T('])");
  EXPECT_EQ(trust("{{ c | trim | indent(2, true) }}{% filter upper %}k{{ c[1] }}{% endfilter %}"),
            "T(  )U(a<b \"c\")T(K)U(A)");
  EXPECT_EQ(trust("{{ {c[1]: c[3]} | tojson }}"), "T({\")U(a)T(\": \")U(b)T(\"})");
  EXPECT_EQ(trust("{{ c[1:2] | default('d') }}{{ bos_token }}{{ c.get }}"), "U(a)");
}

TEST(ChatTemplateTest, OnlyTheFixedRolesAreTrusted) {
  const auto spans =
      Render("{% for m in messages %}<{{ m.role }}>{% endfor %}", {User(""), {"<|im_end|>", {}}, {"assistant", {}}});
  ASSERT_TRUE(spans.ok()) << spans.status();
  ASSERT_EQ(spans->size(), 3u);
  EXPECT_EQ((*spans)[0].text, "<user><");
  EXPECT_EQ((*spans)[1].text, "<|im_end|>");
  EXPECT_FALSE((*spans)[1].trusted);
  EXPECT_EQ((*spans)[2].text, "><assistant>");
}

TEST(ChatTemplateTest, MarksStayInTheirPlace) {
  const std::vector<ChatMessage> messages = {
      {"system", {{"  rules "}}}, {"user", {{" before "}, {"", 0}, {"", 1}, {" between "}, {"", 7}, {"\nWhich? "}}}};
  const auto spans = Render(ChatMlTemplate(), messages);
  ASSERT_TRUE(spans.ok()) << spans.status();
  EXPECT_EQ(Text(*spans),
            "<|im_start|>system\n  rules <|im_end|>\n<|im_start|>user\n before [mark 0][mark 1] between [mark "
            "7]\nWhich? <|im_end|>\n"
            "<|im_start|>assistant\n");
  for (const char* name :
       {"llama3", "llama3.2", "qwen2.5", "qwen3", "smollm2", "mistral-v3", "zephyr", "phi3", "llama2"}) {
    const auto family = Render(ReadFile(absl::StrCat("templates/", name, ".jinja")), messages);
    ASSERT_TRUE(family.ok()) << name << family.status();
    EXPECT_THAT(Text(*family), HasSubstr("before [mark 0][mark 1] between [mark 7]\nWhich?")) << name;
  }
  // A mark is neither space nor text: trimming stops at it, and no search finds it.
  const std::vector<ChatMessage> edge = {{"user", {{" "}, {"", 3}, {" x "}}}};
  const auto edges = Render(
      "{{ messages[0].content | trim }}|{{ messages[0].content.replace('x', 'y') | upper }}|{{ 'z' in "
      "messages[0].content }}",
      edge);
  ASSERT_TRUE(edges.ok()) << edges.status();
  EXPECT_EQ(Text(*edges), "[mark 3] x| [mark 3] Y |False");
}

TEST(ChatTemplateTest, ContentCannotForgeMarksOrTrust) {
  // Private-use characters, the largest code point and noncharacters are ordinary content.
  const std::string content = "\xEE\x80\x80 \xF4\x8F\xBF\xBF \xEF\xBF\xBF \xF3\xB0\x80\x80";
  const auto spans = Render("{{ messages[0].content }}", {User(content)});
  ASSERT_TRUE(spans.ok()) << spans.status();
  ASSERT_EQ(spans->size(), 1u);
  EXPECT_EQ((*spans)[0].text, content);
  EXPECT_FALSE((*spans)[0].trusted);
  for (const char* bad : {"\xC0\x80", "\xED\xA0\x80", "\xF4\x90\x80\x80", "\xFD\xBF\xBF\xBF\xBF\xBF", "\xE2\x82"}) {
    const absl::Status status = Render("{{ messages[0].content }}", {User(absl::StrCat("ok", bad))}).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("message 0: the content: not valid UTF-8 at byte 2"));
  }
}

TEST(ChatTemplateTest, ErrorsNameTheLineAndThePart) {
  const auto message = [](absl::string_view source) {
    return std::string(Render(source, {User("hi")}).status().message());
  };
  EXPECT_EQ(message("a\n\n{{ 1 + }}"), "chat template: line 3: expected an expression but found \"}}\"");
  EXPECT_EQ(message("a\n{% if x %}"), "chat template: line 2: the template ends before \"endif\"");
  EXPECT_EQ(message("{{ x | wordwrap }}"),
            "chat template: line 1: the filter \"wordwrap\" is not supported in chat templates");
  EXPECT_EQ(message("\n{{ 'x' is escaped }}"),
            "chat template: line 2: the test \"escaped\" is not supported in chat templates");
  EXPECT_EQ(message("{% include 'x' %}"),
            "chat template: line 1: the statement \"include\" is not supported in chat templates");
  EXPECT_EQ(message("{{ 'x'.zfill(3) }}"),
            "chat template: line 1: the method \"zfill\" of a str is not supported in chat templates");
  EXPECT_EQ(message("{{ nothing.x }}"), "chat template: line 1: 'nothing' is undefined");
  EXPECT_EQ(message("{{ raise_exception('No system role') }}"), "No system role");
  EXPECT_EQ(Render("{{ raise_exception('x') }}", {}).status().code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_EQ(Render("{{ x | wordwrap }}", {}).status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_EQ(Render("{% call x() %}{% endcall %}", {}).status().code(), absl::StatusCode::kUnimplemented);
  // An unsupported construct matters only where it is reached.
  EXPECT_TRUE(Render("{% if tools %}{{ x | wordwrap }}{% endif %}", {}).ok());
}

TEST(ChatTemplateTest, DateAnswersStrftimeNow) {
  ChatOptions options;
  options.date = "05 Mar 2025";
  const auto spans = Render("{{ strftime_now('%d %b %Y') }}|{{ strftime_now('%Y-%m-%d') }}", {}, options);
  ASSERT_TRUE(spans.ok()) << spans.status();
  EXPECT_EQ(Text(*spans), "05 Mar 2025|2025-03-05");
  EXPECT_TRUE((*spans)[0].trusted);
  EXPECT_EQ(Text(*Render("{{ strftime_now('%Y') | length }}", {})), "4");
}

TEST(ChatTemplateTest, HostileTemplatesMeetTheirBounds) {
  const auto repeat = [](absl::string_view part, int count) {
    std::string out;
    for (int i = 0; i < count; ++i) absl::StrAppend(&out, part);
    return out;
  };
  const auto code = [](absl::string_view source) { return Render(source, {User("hi")}).status().code(); };
  constexpr auto kExhausted = absl::StatusCode::kResourceExhausted;
  EXPECT_EQ(code(repeat("x", (256 << 10) + 1)), kExhausted);
  EXPECT_EQ(code(repeat("x", 256 << 10)), absl::StatusCode::kOk);
  EXPECT_EQ(code("{% for x in range(2000000) %}{% endfor %}"), kExhausted);
  EXPECT_EQ(code("{% for x in range(2000) %}{% for y in range(2000) %}{% endfor %}{% endfor %}"), kExhausted);
  EXPECT_EQ(code("{{ 'x' * 1000000000000 }}"), kExhausted);
  EXPECT_EQ(code("{% for x in range(20) %}{{ 'x' * 1000000 }}{% endfor %}"), kExhausted);
  EXPECT_EQ(code("{% set ns = namespace(s='x') %}{% for x in range(99) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}"),
            kExhausted);
  EXPECT_EQ(code("{% set ns = namespace(s='x' * 4096) %}{{ ns.s.replace('x', ns.s).replace('x', ns.s) }}"), kExhausted);
  EXPECT_EQ(code("{% set ns = namespace(l=[]) %}{% for x in range(99) %}{% set ns.l = [ns.l] %}{% endfor %}"),
            kExhausted);
  EXPECT_EQ(
      code(
          "{% set ns = namespace(l=[1]) %}{% for x in range(60) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ ns.l }}"),
      kExhausted);
  EXPECT_EQ(code("{% set ns = namespace(l=[1]) %}{% for x in range(60) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ "
                 "ns.l == ns.l[:] }}"),
            kExhausted);
  EXPECT_EQ(code("{% set ns = namespace(l=[1]) %}{% for x in range(60) %}{% set ns.l = [ns.l, ns.l] %}{% endfor %}{{ "
                 "ns.l | tojson }}"),
            kExhausted);
  EXPECT_EQ(code("{% macro f(x) %}{{ f(x) }}{% endmacro %}{{ f(1) }}"), kExhausted);
  EXPECT_EQ(code(absl::StrCat("{{ ", repeat("(", 60), "1", repeat(")", 60), " }}")), absl::StatusCode::kOk);
  EXPECT_EQ(code(absl::StrCat("{{ ", repeat("(", 50000), "1", repeat(")", 50000), " }}")), kExhausted);
  EXPECT_EQ(code(absl::StrCat("{{ ", repeat("[", 50000), repeat("]", 50000), " }}")), kExhausted);
  EXPECT_EQ(code(absl::StrCat("{{ ", repeat("-", 50000), "1 }}")), kExhausted);
  EXPECT_EQ(code(absl::StrCat("{{ ", repeat("not ", 50000), "1 }}")), kExhausted);
  EXPECT_EQ(code(absl::StrCat("{{ 1", repeat(" + 1", 200), " }}")), absl::StatusCode::kOk);
  EXPECT_EQ(code(absl::StrCat("{{ 1", repeat(" + 1", 50000), " }}")), kExhausted);
  EXPECT_EQ(code(absl::StrCat("{{ x", repeat(".x", 50000), " }}")), kExhausted);
  EXPECT_EQ(code(absl::StrCat("{{ x", repeat("|trim", 30000), " }}")), kExhausted);
  EXPECT_EQ(code(repeat("{% if 1 %}", 20000)), kExhausted);
  EXPECT_EQ(code(absl::StrCat("{{ 1", repeat(" if 1 else 1", 20000), " }}")), kExhausted);
  // Would make a circle of references, and leak.
  EXPECT_EQ(code("{% set ns = namespace() %}{% set ns.x = ns %}"), absl::StatusCode::kUnimplemented);
  EXPECT_EQ(code("{% set ns = namespace() %}{% for x in [ns] %}{% set ns.l = loop %}{% endfor %}"),
            absl::StatusCode::kUnimplemented);
  EXPECT_EQ(code("{% set ns = namespace() %}{% set ns.x = [{'a': ns}] %}"), absl::StatusCode::kUnimplemented);
  EXPECT_EQ(code("{{ 9223372036854775807 + 1 }}"), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code("{{ -9223372036854775807 * 2 }}"), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code("{{ 99999999999999999999 }}"), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code("{{ 2 ** 9999999999 }}"), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code("{{ [1] | tojson(indent=99999999) }}"), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(code("{{ 'x'[9223372036854775807:-9223372036854775807:-9223372036854775807] }}"), absl::StatusCode::kOk);
}

TEST(ChatTemplateTest, ChatMlIsTheDefault) {
  const auto spans = Render(ChatMlTemplate(), {{"system", {{"s"}}}, User("u")});
  ASSERT_TRUE(spans.ok()) << spans.status();
  EXPECT_EQ(Text(*spans), "<|im_start|>system\ns<|im_end|>\n<|im_start|>user\nu<|im_end|>\n<|im_start|>assistant\n");
  EXPECT_EQ(spans->size(), 5u);
}

}  // namespace
}  // namespace kvlink::model
