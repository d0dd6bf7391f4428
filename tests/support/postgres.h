// A real server of PostgreSQL on this host, which a test kills, freezes, starts again and replaces by its standby.
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
  std::string access;                 // pg_hba.conf; empty: everybody on this host is who he says
  bool durable = false;               // on a disk and with fsync, as in production
};

// Serves the user "kvlink", who may do everything, and the database "kvlink", which is empty.
class PostgresServer {
 public:
  // Whether the programs are there (Debian's postgresql). Tests skip where they are not.
  static bool Installed();

  // Makes a server and waits until it serves; that it does not is a failure of the test.
  explicit PostgresServer(const PostgresOptions& options = {});
  ~PostgresServer();
  PostgresServer(const PostgresServer&) = delete;
  PostgresServer& operator=(const PostgresServer&) = delete;

  // A server that follows this one. What this one commits from now on it has, too.
  std::unique_ptr<PostgresServer> MakeStandby();
  void Promote();

  void Kill();    // kill -9 of all its processes
  void Freeze();  // all its processes
  void Thaw();
  void Restart();  // one that was killed, with what it has on its disk
  void Stop();     // as an operator does

  // "127.0.0.1", and the port.
  const std::string& port() const { return port_; }
  const std::string& socket_directory() const { return directory_->path(); }
  // "postgresql://kvlink@127.0.0.1:PORT/DATABASE".
  std::string connection(const std::string& database = "kvlink") const;
  // An empty database of a name of its own.
  std::string NewDatabase();
  // The rows that psql prints, as one text; a statement that fails is a failure of the test.
  std::string Sql(const std::string& sql, const std::string& database = "kvlink") const;

 private:
  PostgresServer(const PostgresServer& primary, int);  // its standby
  void Make(const std::vector<std::string>& command);  // its data, and starts it
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
