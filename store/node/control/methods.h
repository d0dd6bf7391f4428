// The methods of proto/store.proto, by name.
//
// Thread-safety: all methods; they run on the scheduler's threads and may block on the engine.
#ifndef KVLINK_STORE_NODE_CONTROL_METHODS_H_
#define KVLINK_STORE_NODE_CONTROL_METHODS_H_

#include <atomic>
#include <map>
#include <string>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "proto/store.pb.h"
#include "store/node/control/call.h"
#include "store/node/core.h"
#include "store/node/watch/statistics.h"

namespace kvlink::store::node {

class ControlMethods {
 public:
  ControlMethods(Core* node, const Figures* figures);

  // Returns null if there is no such method.
  const ControlMethod* Find(absl::string_view name) const;
  // Returns a key's grant, for a call that opens a session. UNAUTHENTICATED, UNAVAILABLE (the node is starting or
  // draining).
  absl::StatusOr<Grant> Greet(absl::string_view key, const std::string& peer) const;

 private:
  template <typename Request, typename Response>
  using Unary = absl::Status (ControlMethods::*)(ControlCall* call, const Request& request, Response* reply);
  template <typename Request>
  using Streaming = absl::Status (ControlMethods::*)(ControlCall* call, const Request& request);

  template <typename Request, typename Response>
  void Add(const char* name, Operation operation, Unary<Request, Response> method, int64_t max_fields = 16,
           int nested_field = 0);
  template <typename Request>
  void AddStream(const char* name, Streaming<Request> method);

  // methods_sessions.cc
  void AddSessions();
  void Describe(const Session& session, v1::Session* reply) const;
  absl::Status OpenSession(ControlCall*, const v1::OpenSessionRequest&, v1::Session*);
  absl::Status RenewSession(ControlCall*, const v1::RenewSessionRequest&, v1::Session*);
  absl::Status CloseSession(ControlCall*, const v1::CloseSessionRequest&, v1::CloseSessionResponse*);

  // methods_catalog.cc
  void AddCatalog();
  absl::Status PutDocuments(ControlCall*, const v1::PutDocumentsRequest&, v1::Results*);
  absl::Status GetDocuments(ControlCall*, const v1::GetDocumentsRequest&, v1::GetDocumentsResponse*);
  absl::Status DeleteDocuments(ControlCall*, const v1::DeleteDocumentsRequest&, v1::Results*);
  absl::Status ListDocuments(ControlCall*, const v1::ListDocumentsRequest&, v1::ListDocumentsResponse*);
  absl::Status DeletePrefix(ControlCall*, const v1::DeletePrefixRequest&, v1::DeleteProgress*);
  absl::Status DeleteOne(ControlCall* call, const std::string& ns, const v1::DeletedDocument& document);

  // methods_namespaces.cc
  void AddNamespaces();
  absl::Status PutNamespace(ControlCall*, const v1::PutNamespaceRequest&, v1::PutNamespaceResponse*);
  absl::Status DeleteNamespace(ControlCall*, const v1::DeleteNamespaceRequest&, v1::DeleteProgress*);
  absl::Status ListNamespaces(ControlCall*, const v1::ListNamespacesRequest&, v1::ListNamespacesResponse*);
  absl::Status DropPins(ControlCall*, const v1::DropPinsRequest&, v1::DropPinsResponse*);

  // methods_administration.cc
  void AddAdministration();
  absl::Status Stats(ControlCall*, const v1::StatsRequest&, v1::StatsResponse*);
  absl::Status ListEncodings(ControlCall*, const v1::ListEncodingsRequest&, v1::ListEncodingsResponse*);
  absl::Status DropDramTier(ControlCall*, const v1::DropDramTierRequest&, v1::DropDramTierResponse*);
  absl::Status Verify(ControlCall*, const v1::VerifyRequest&);
  absl::Status Drain(ControlCall*, const v1::DrainRequest&);

  Core* const node_;
  const Figures* const figures_;
  std::map<std::string, ControlMethod, std::less<>> methods_;
  std::atomic<int> verifying_{0};
};

template <typename Request, typename Response>
void ControlMethods::Add(const char* name, Operation operation, Unary<Request, Response> method, int64_t max_fields,
                         int nested_field) {
  ControlMethod& entry = methods_[name];
  entry = {name, operation, max_fields, nested_field};
  entry.run = [this, method](ControlCall* call, const std::string& bytes) -> absl::StatusOr<std::string> {
    Request request;
    if (!request.ParseFromString(bytes)) return absl::InvalidArgumentError("the message cannot be parsed");
    Response reply;
    const absl::Status status = (this->*method)(call, request, &reply);
    if (!status.ok()) return status;
    return reply.SerializeAsString();
  };
}

template <typename Request>
void ControlMethods::AddStream(const char* name, Streaming<Request> method) {
  ControlMethod& entry = methods_[name];
  entry = {name, Operation::kAdministration};
  entry.streams = true;
  entry.run = [this, method](ControlCall* call, const std::string& bytes) -> absl::StatusOr<std::string> {
    Request request;
    if (!request.ParseFromString(bytes)) return absl::InvalidArgumentError("the message cannot be parsed");
    const absl::Status status = (this->*method)(call, request);
    if (!status.ok()) return status;
    return std::string();
  };
}

void DescribeNamespace(const std::string& name, const engine::NamespaceSettings& settings, v1::Namespace* out);
inline absl::string_view View(const std::string& text) { return {text.data(), text.size()}; }

}  // namespace kvlink::store::node

#endif  // KVLINK_STORE_NODE_CONTROL_METHODS_H_
