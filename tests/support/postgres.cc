// PostgreSQL refuses to run as root; then it runs as the user "postgres" that its package creates. Each of its
// processes has its own process group, so signals go to all children of the first.
#include "tests/support/postgres.h"

#include <gtest/gtest.h>
#include <pwd.h>
#include <signal.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <functional>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "absl/time/clock.h"
#include "base/clock.h"
#include "tests/support/address.h"

namespace kvlink::testing {
namespace {

namespace fs = std::filesystem;

constexpr absl::Duration kPatience = absl::Minutes(1), kLook = absl::Milliseconds(20);

// The directory of the newest version's programs; empty if there is none.
std::string Programs() {
  int newest = 0;
  std::error_code ignored;
  for (const auto& entry : fs::directory_iterator("/usr/lib/postgresql", ignored)) {
    const int version = std::atoi(entry.path().filename().c_str());
    if (version > newest && fs::exists(entry.path() / "bin/initdb")) newest = version;
  }
  return newest == 0 ? "" : absl::StrCat("/usr/lib/postgresql/", newest, "/bin/");
}

std::string ServerUser() { return getpwnam("postgres") != nullptr ? "postgres" : "nobody"; }

char StateOf(pid_t process) {
  std::ifstream file(absl::StrCat("/proc/", process, "/stat"));
  std::string until;
  char state = 'X';
  std::getline(file, until, ')');
  file >> state;
  return state;
}

// Gives the directory to the server's user.
void Own(const ScratchDirectory& directory) {
  if (geteuid() != 0) return;
  const passwd* const user = getpwnam(ServerUser().c_str());
  EXPECT_EQ(chown(directory.path().c_str(), user->pw_uid, user->pw_gid), 0);
}

void Await(const char* what, const std::function<bool()>& holds) {
  const absl::Time deadline = SteadyNow() + kPatience;
  while (!holds()) {
    ASSERT_LT(SteadyNow(), deadline) << "PostgreSQL: " << what;
    absl::SleepFor(kLook);
  }
}

}  // namespace

bool PostgresServer::Installed() { return !Programs().empty(); }

std::vector<std::string> PostgresServer::AsServer(std::vector<std::string> command) const {
  if (command[0][0] != '/') command[0] = Programs() + command[0];
  if (geteuid() != 0) return command;
  const passwd* const user = getpwnam(ServerUser().c_str());
  const std::vector<std::string> as = {"/usr/bin/setpriv", absl::StrCat("--reuid=", user->pw_uid),
                                       absl::StrCat("--regid=", user->pw_gid), "--clear-groups"};
  command.insert(command.begin(), as.begin(), as.end());
  return command;
}

PostgresServer::PostgresServer(const PostgresOptions& options)
    : options_(options), directory_(std::make_unique<ScratchDirectory>(/*in_memory=*/!options.durable)) {
  // The result of initdb is made once and copied.
  static const ScratchDirectory made(/*in_memory=*/true);
  if (!fs::exists(made.path() + "/data")) {
    Own(made);
    const Finished finished =
        RunToEnd(AsServer({"initdb", "--pgdata", made.path() + "/data", "--username=kvlink", "--auth=trust",
                           "--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions"}));
    EXPECT_EQ(finished.status, 0) << finished.output << finished.errors;
  }
  Make({"/bin/cp", "-a", made.path() + "/data", data()});
  if (!::testing::Test::HasFatalFailure()) Sql("CREATE DATABASE kvlink", "postgres");
}

PostgresServer::PostgresServer(const PostgresServer& primary, int)
    : options_(primary.options_), directory_(std::make_unique<ScratchDirectory>(/*in_memory=*/true)) {
  Make({"pg_basebackup", "--pgdata", data(), "--host", primary.socket_directory(), "--port", primary.port(),
        "--username=kvlink", "--checkpoint=fast", "--write-recovery-conf", "--wal-method=stream", "--no-sync"});
}

void PostgresServer::Make(const std::vector<std::string>& command) {
  Own(*directory_);
  const std::string address = UnusedAddress();
  port_ = address.substr(address.rfind(':') + 1);
  const Finished made = RunToEnd(AsServer(command));
  ASSERT_EQ(made.status, 0) << made.output << made.errors;
  if (!options_.access.empty()) std::ofstream(data() + "/pg_hba.conf") << options_.access;
  Start();
  AwaitServing();
}

PostgresServer::~PostgresServer() {
  if (::testing::Test::HasFailure() && process_ != nullptr) {
    const std::string log = process_->errors();
    std::fprintf(stderr, "-- the end of PostgreSQL's log\n%s\n",
                 log.substr(log.size() - std::min<size_t>(log.size(), 3000)).c_str());
  }
  Kill();
}

void PostgresServer::Start() {
  std::vector<std::string> command = {"postgres", "-D", data(), "-k", directory_->path(), "-p", port_};
  std::vector<std::string> settings = {"listen_addresses=127.0.0.1", "log_min_messages=log"};
  if (!options_.durable) settings.push_back("fsync=off");
  settings.insert(settings.end(), options_.settings.begin(), options_.settings.end());
  for (const std::string& setting : settings) command.insert(command.end(), {"-c", setting});
  process_ = std::make_unique<Subprocess>(AsServer(command));
}

Finished PostgresServer::Psql(const std::string& sql, const std::string& database) const {
  return RunToEnd(
      {Programs() + "psql", "--no-psqlrc", "--host", directory_->path(), "--port", port_, "--username=kvlink",
       "--dbname", database, "--tuples-only", "--no-align", "--quiet", "--set=ON_ERROR_STOP=1", "--command", sql},
      {.environment = {"PGCONNECT_TIMEOUT=20", "PGOPTIONS=-c statement_timeout=60000"}});
}

void PostgresServer::AwaitServing() {
  Await("it does not serve", [this] {
    EXPECT_TRUE(process_->running()) << process_->errors();
    return !process_->running() || Psql("SELECT 1", "postgres").status == 0;
  });
}

std::unique_ptr<PostgresServer> PostgresServer::MakeStandby() {
  std::unique_ptr<PostgresServer> standby(new PostgresServer(*this, 0));
  Sql("ALTER SYSTEM SET synchronous_standby_names = '*'", "postgres");
  Sql("SELECT pg_reload_conf()", "postgres");
  Await("the standby does not follow", [this] {
    return Sql("SELECT count(*) FROM pg_stat_replication WHERE sync_state = 'sync'", "postgres") == "1";
  });
  return standby;
}

void PostgresServer::Promote() {
  Sql("ALTER SYSTEM SET synchronous_standby_names = ''", "postgres");
  Sql("SELECT pg_reload_conf()", "postgres");
  EXPECT_EQ(Sql("SELECT pg_promote()", "postgres"), "t");
}

std::vector<pid_t> PostgresServer::Processes() const {
  std::vector<pid_t> processes;
  if (process_ == nullptr || process_->pid() <= 0) return processes;
  processes.push_back(process_->pid());
  std::ifstream children(absl::StrCat("/proc/", process_->pid(), "/task/", process_->pid(), "/children"));
  for (pid_t child = 0; children >> child;) processes.push_back(child);
  return processes;
}

void PostgresServer::Freeze() {
  if (!process_->running()) return;
  // Once stopped, the first process starts no others.
  kill(process_->pid(), SIGSTOP);
  Await("it does not stop", [this] { return StateOf(process_->pid()) == 'T'; });
  for (const pid_t process : Processes()) kill(process, SIGSTOP);
}

void PostgresServer::Thaw() {
  std::vector<pid_t> processes = Processes();
  std::reverse(processes.begin(), processes.end());
  for (const pid_t process : processes) kill(process, SIGCONT);
}

void PostgresServer::Kill() {
  if (process_ == nullptr || !process_->running()) return;
  Freeze();
  const std::vector<pid_t> processes = Processes();
  for (const pid_t process : processes) kill(process, SIGKILL);
  process_->Wait();
  Await("its processes do not end", [&] {
    return std::all_of(processes.begin(), processes.end(), [](pid_t process) { return kill(process, 0) != 0; });
  });
}

void PostgresServer::Restart() {
  Start();
  AwaitServing();
}

void PostgresServer::Stop() {
  process_->Signal(SIGINT);
  // It waits for a standby that does not follow; an operator would then request an immediate stop.
  const absl::Time limit = SteadyNow() + absl::Seconds(20);
  while (process_->running() && SteadyNow() < limit) absl::SleepFor(kLook);
  if (process_->running()) process_->Signal(SIGQUIT);
  process_->Wait();
}

std::string PostgresServer::connection(const std::string& database) const {
  return absl::StrCat("postgresql://kvlink@127.0.0.1:", port_, "/", database);
}

std::string PostgresServer::NewDatabase() {
  const std::string name = absl::StrCat("kvlink_", ++databases_);
  Sql("CREATE DATABASE " + name, "postgres");
  return name;
}

std::string PostgresServer::Sql(const std::string& sql, const std::string& database) const {
  const Finished finished = Psql(sql, database);
  EXPECT_EQ(finished.status, 0) << sql << "\n" << finished.errors;
  return std::string(absl::StripSuffix(finished.output, "\n"));
}

}  // namespace kvlink::testing
