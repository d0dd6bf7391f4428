// A server over a tiny model, in this process, so that sanitizers see it.
#ifndef KVLINK_TESTS_WORKER_SERVE_ROUTER_FIXTURE_H_
#define KVLINK_TESTS_WORKER_SERVE_ROUTER_FIXTURE_H_

#include <gtest/gtest.h>

#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "base/clock.h"
#include "base/mutex.h"
#include "nlohmann/json.hpp"
#include "tests/support/patience.h"
#include "tests/worker/infer/faulty_store.h"
#include "tests/worker/infer/fixture.h"
#include "tests/worker/serve/http_client.h"
#include "worker/files/open_tokenizer.h"
#include "worker/serve/router.h"

namespace kvlink::serve::testing {

using Json = nlohmann::json;

inline constexpr absl::Duration kPatience = absl::Minutes(2);

// What a router logged. A record may come after the client has its answer, so it outlives the server.
class Records {
 public:
  explicit Records(std::function<std::string(const Record&)> line) : line_(std::move(line)) {}
  void Add(const Record& record) {
    MutexLock lock(&mutex_);
    lines_.push_back(line_(record));
  }
  // Waits until there are `count`, if they come in time, and takes all.
  std::vector<std::string> Take(size_t count) {
    kvlink::testing::Eventually([&] {
      MutexLock lock(&mutex_);
      return lines_.size() >= count;
    });
    MutexLock lock(&mutex_);
    return std::exchange(lines_, {});
  }

 private:
  const std::function<std::string(const Record&)> line_;
  Mutex mutex_;
  std::vector<std::string> lines_ ABSL_GUARDED_BY(mutex_);
};

class RouterTest : public ::testing::Test {
 protected:
  // For Options::log.
  std::shared_ptr<Records> LogTo(Router::Options* options, std::function<std::string(const Record&)> line) {
    auto records = std::make_shared<Records>(std::move(line));
    options->log = [records](const Record& record) { records->Add(record); };
    return records;
  }
  void Start(const infer::Scheduler::Options& scheduling = {}, Router::Options options = {}) {
    kvlink::testing::TinyModelOptions tiny;
    tiny.layers = 2;
    tiny.context = 512;
    tiny.tied = tied_;
    const std::string path = directory_.path() + "/model";
    ASSERT_TRUE(kvlink::testing::WriteTinyModel(path, tiny).ok());
    loaded_ = infer::LoadModel(path, kernels::MakeRefBackend());
    tokenizer_ = *model::OpenTokenizer(path);
    const model::ModelConfig& config = loaded_.model->config();
    chat_ = *link::OpenChat(loaded_.weights->chat_template(), config, *tokenizer_);
    profile_ = *link::LoadLinkProfile("untuned");
    store_ = infer::OpenStore(directory_.path() + "/store");
    catalog_ = std::make_unique<kvlink::testing::FaultyStore>(store_.get());
    catalog_->HoldCatalog(hold_);
    catalog_->HoldClock(hold_clock_);
    infer::GeneratorOptions generating;
    generating.profile = profile_;
    generating.private_tokens = private_tokens_;
    generating.write_back_bytes = write_back_bytes_;
    generator_ = *infer::Generator::Create(loaded_.model.get(), loaded_.fingerprint, store_.get(), generating);
    encoder_ = *encode::Encoder::Create(loaded_.model.get(), loaded_.fingerprint, {});
    const ingest::ChunkLimits limits = *ingest::ChunkLimitsOf(128, config.context);
    writer_ = std::make_unique<ingest::DocumentWriter>(ingest::WriterInput{.tokenizer = tokenizer_.get(),
                                                                           .profile = &profile_,
                                                                           .limits = limits,
                                                                           .fingerprint = loaded_.fingerprint,
                                                                           .encoder = encoder_.get(),
                                                                           .store = catalog_.get()});
    scheduler_ = std::make_unique<infer::Scheduler>(generator_.get(), scheduling);
    service_ = std::make_unique<Service>(
        Service::Parts{generator_.get(), catalog_.get(), tokenizer_.get(), &chat_, loaded_.fingerprint},
        Service::Options{.document = limits, .models = {"tiny"}});
    router_ =
        std::make_unique<Router>(Router::Parts{service_.get(), scheduler_.get(), writer_.get()}, std::move(options));
    auto server = HttpServer::Start(
        {.address = "127.0.0.1:0",
         .body_owner = [router = router_.get()](const HttpRequest& head) { return router->BodyOwner(head); }},
        [router = router_.get()](std::shared_ptr<HttpExchange> exchange) { router->Handle(std::move(exchange)); });
    ASSERT_TRUE(server.ok()) << server.status();
    server_ = *std::move(server);
    router_->Watch(server_.get());
  }
  void TearDown() override {
    if (server_ == nullptr) return;
    scheduler_->Drain(SteadyNow());
    server_.reset();
  }

  std::string Request(const std::string& method, const std::string& path, const std::string& body = "",
                      const std::string& headers = "") const {
    return absl::StrCat(method, " ", path,
                        " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: ", body.size(), "\r\n",
                        headers, "\r\n", body);
  }
  Answer Send(const std::string& method, const std::string& path, const std::string& body = "") const {
    HttpClient client;
    EXPECT_TRUE(client.Connect(server_->address()));
    EXPECT_TRUE(client.Send(Request(method, path, body)));
    return client.ReadAnswer(method == "HEAD");
  }
  static Json Chat(const std::string& question, int tokens) {
    return {{"model", "tiny"},
            {"messages", {{{"role", "user"}, {"content", question}}}},
            {"temperature", 0},
            {"max_tokens", tokens}};
  }
  // The answer comes later.
  std::unique_ptr<HttpClient> Begin(const std::string& method, const std::string& path, const std::string& body,
                                    const std::string& headers = "") const {
    auto client = std::make_unique<HttpClient>();
    EXPECT_TRUE(client->Connect(server_->address()));
    EXPECT_TRUE(client->Send(Request(method, path, body, headers)));
    return client;
  }
  // Waits until nothing is under way.
  bool Idle() const {
    const absl::Time until = SteadyNow() + kPatience;
    while (SteadyNow() < until) {
      const infer::Scheduler::Stats stats = scheduler_->stats();
      if (stats.running == 0 && stats.waiting == 0) return true;
      absl::SleepFor(absl::Milliseconds(2));
    }
    return false;
  }

  // Before Start.
  bool tied_ = true;  // the model's answers repeat one token
  int64_t private_tokens_ = 1024, write_back_bytes_ = int64_t{256} << 20;
  std::function<absl::Status()> hold_;  // FaultyStore::HoldCatalog
  std::function<void()> hold_clock_;    // likewise

  infer::TempDirectory directory_;
  infer::Loaded loaded_;
  std::unique_ptr<model::Tokenizer> tokenizer_;
  link::ModelChat chat_;
  link::LinkProfile profile_;
  std::unique_ptr<store::Store> store_;
  std::unique_ptr<kvlink::testing::FaultyStore> catalog_;  // in front of it, for what asks by id and what writes
  std::unique_ptr<infer::Generator> generator_;
  std::unique_ptr<encode::Encoder> encoder_;
  std::unique_ptr<ingest::DocumentWriter> writer_;
  std::unique_ptr<infer::Scheduler> scheduler_;
  std::unique_ptr<Service> service_;
  std::unique_ptr<Router> router_;
  std::unique_ptr<HttpServer> server_;
};

}  // namespace kvlink::serve::testing

#endif  // KVLINK_TESTS_WORKER_SERVE_ROUTER_FIXTURE_H_
