// Identities under a tenant's secret: only clients with the secret find the encodings.
#include <gmock/gmock.h>
#include <sys/stat.h>

#include "tests/integration/cli_workplace.h"

namespace kvlink::testing {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

class CliSecretTest : public CliTest {
 protected:
  std::string Secret(const std::string& name, const std::string& bytes, mode_t mode = 0600) const {
    const std::string path = Write(name, bytes);
    EXPECT_EQ(chmod(path.c_str(), mode), 0);
    return path;
  }
  Finished Ask(std::vector<std::string> arguments, const std::string& secret_file = "") const {
    if (!secret_file.empty()) arguments.insert(arguments.end(), {"--secret-file", secret_file});
    arguments.insert(arguments.end(), {"--max-tokens", "2", "How many grains?"});
    return Run("ask", arguments);
  }
  std::string IdentityOf(const std::string& id) const {
    return Inspect({"document", id})["parts"][0]["identity"].get<std::string>();
  }
};

TEST_F(CliSecretTest, EncodingsAreFoundUnderTheirSecretOnly) {
  const std::string ours = Secret("ours", "0123456789abcdef\n");
  const std::string same = Secret("same", "0123456789abcdef", 0640);  // no newline; a group may read it
  const std::string other = Secret("other", "0123456789abcdeg\n");
  const std::string input = Write("in.jsonl", Lines(0, 2));
  EXPECT_THAT(Run("ingest", {input, "--secret-file", ours}).output, HasSubstr("2 added"));
  EXPECT_THAT(Run("ingest", {input, "--secret-file", same}).output, HasSubstr("0 added, 2 already complete"));
  const std::string named = IdentityOf("d1");

  const Finished answered = Ask({"--doc", "d0", "--doc", "d1"}, same);
  EXPECT_EQ(answered.status, 0) << answered.errors;
  EXPECT_THAT(answered.errors, HasSubstr("encodings: 2 from disk"));
  ExpectRefused(Ask({"--doc", "d1"}, other), "ask", {"'d1'", "with another tenant secret", "--secret-file"});
  ExpectRefused(Ask({"--doc", "d1"}), "ask", {"'d1'", "with a tenant secret", "--secret-file"});

  // The same texts by file: other secrets lead to other identities.
  EXPECT_THAT(Ask({"--file", input}, ours).errors, HasSubstr("encodings: 2 from disk"));
  EXPECT_THAT(Ask({"--file", input}, other).errors, HasSubstr("encodings: 2 encoded now"));
  EXPECT_THAT(Ask({"--file", input}).errors, HasSubstr("encodings: 2 encoded now"));

  EXPECT_THAT(Run("ingest", {input}).output, HasSubstr("2 added"));
  EXPECT_NE(IdentityOf("d1"), named);
  ExpectRefused(Ask({"--doc", "d1"}, ours), "ask", {"'d1'", "without a tenant secret", "leave out --secret-file"});
  EXPECT_EQ(Ask({"--doc", "d1"}).status, 0);
}

TEST_F(CliSecretTest, ABadSecretFileIsRefusedAndNeverShown) {
  const std::string input = Write("in.jsonl", Lines(0, 1));
  const std::string word = "open sesame";
  const std::string pipe = Path("pipe");
  ASSERT_EQ(mkfifo(pipe.c_str(), 0600), 0);
  const std::pair<std::string, std::string> cases[] = {
      {Path("missing"), "No such file"},
      {Path("model"), "not a regular file"},
      {pipe, "not a regular file"},
      {"", "No such file"},
      {Secret("readable", word + " 0123456789", 0604), "others may read"},
      {Secret("writable", word + " 0123456789", 0602), "others may read or write"},
      {Secret("empty", ""), "16 to 4096 bytes, this one has fewer"},
      {Secret("short", word + " 012\n"), "16 to 4096 bytes, this one has fewer"},
      {Secret("long", word + std::string(4097 - word.size(), 'x')), "16 to 4096 bytes, this one has more"},
      {Secret("endless", word + std::string(1 << 20, 'x')), "16 to 4096 bytes, this one has more"},
  };
  for (const auto& [path, message] : cases) {
    for (const char* command : {"ingest", "ask"}) {
      const Finished refused = Run(command, {input, "--secret-file", path});
      ExpectRefused(refused, command, {"--secret-file", path, message});
      EXPECT_THAT(refused.errors, Not(HasSubstr(word)));
    }
  }
  EXPECT_EQ(Run("ingest", {input, "--secret-file", Secret("least", "0123456789abcdef\n")}).status, 0);
  EXPECT_EQ(Run("ingest", {input, "--secret-file", Secret("most", std::string(4096, 'x') + "\n")}).status, 0);
}

}  // namespace
}  // namespace kvlink::testing
