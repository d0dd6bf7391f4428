// A real PostgreSQL server on this host, which a test kills, freezes, restarts and replaces by its standby.
// Thread-safety: one thread at a time.
#ifndef KVLINK_TESTS_SUPPORT_POSTGRES_H_
#define KVLINK_TESTS_SUPPORT_POSTGRES_H_

#include <sys/types.h>

#include <memory>
#include <string>
#include <vector>

#include "tests/support/scratch_directory.h"
#include "tests/support/subprocess.h"

namespace kvlink::testing {

struct PostgresOptions {
  std::vector<std::string> settings;  // "max_connections=10"
  std::string access;                 // pg_hba.conf; empty: trusts everyone on this host
  bool durable = false;               // on a disk and with fsync, as in production
};

// Serves the user "kvlink", who has all rights, and the empty database "kvlink".
class PostgresServer {
 public:
  // Whether the programs are installed (Debian's postgresql). Tests skip if not.
  static bool Installed();

  // Creates a server and waits until it serves; otherwise the test fails.
  explicit PostgresServer(const PostgresOptions& options = {});
  ~PostgresServer();
  PostgresServer(const PostgresServer&) = delete;
  PostgresServer& operator=(const PostgresServer&) = delete;

  // A server that follows this one: it also has what this one commits from now on.
  std::unique_ptr<PostgresServer> MakeStandby();
  void Promote();

  void Kill();    // kill -9 of all its processes
  void Freeze();  // all its processes
  void Thaw();
  void Restart();  // a killed server, with the contents of its disk
  void Stop();     // as an operator would

  // "127.0.0.1", and the port.
  const std::string& port() const { return port_; }
  const std::string& socket_directory() const { return directory_->path(); }
  // "postgresql://kvlink@127.0.0.1:PORT/DATABASE".
  std::string connection(const std::string& database = "kvlink") const;
  // Creates an empty database with a unique name.
  std::string NewDatabase();
  // Returns the rows that psql prints, as one text; the test fails if the statement fails.
  std::string Sql(const std::string& sql, const std::string& database = "kvlink") const;

 private:
  PostgresServer(const PostgresServer& primary, int);  // its standby
  void Make(const std::vector<std::string>& command);  // creates its data and starts it
  void Start();
  void AwaitServing();
  std::vector<pid_t> Processes() const;
  std::vector<std::string> AsServer(std::vector<std::string> command) const;
  std::string data() const { return directory_->path() + "/data"; }
  Finished Psql(const std::string& sql, const std::string& database) const;

  const PostgresOptions options_;
  std::unique_ptr<ScratchDirectory> directory_;
  std::string port_;
  std::unique_ptr<Subprocess> process_;
  int databases_ = 0;
};

}  // namespace kvlink::testing

#endif  // KVLINK_TESTS_SUPPORT_POSTGRES_H_
