#include "store/node/data/marks.h"

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/status.h"
#include "store/node/service.h"

namespace kvlink::store {
namespace {

absl::Status Pin(engine::Engine* engine, Session* session, const engine::EncodingKey& key) {
  KVLINK_ASSIGN_OR_RETURN(const uint64_t sequence, engine->Pin(key));
  if (session->AddPin(key, sequence)) return absl::OkStatus();
  (void)engine->Unpin(key, sequence);
  return absl::UnauthenticatedError("the session has ended");
}

absl::Status Unpin(engine::Engine* engine, Session* session, const engine::EncodingKey& key) {
  const std::optional<uint64_t> sequence = session->TakePin(key);
  if (!sequence.has_value()) return absl::NotFoundError("this session has not pinned the encoding");
  return engine->Unpin(key, sequence);
}

absl::Status DoOne(Service* service, Session* session, proto::Mark::Act act, const engine::EncodingKey& key,
                   absl::Time deadline) {
  engine::Engine* const engine = service->engine.get();
  switch (act) {
    case proto::Mark::PIN:
      return Pin(engine, session, key);
    case proto::Mark::UNPIN:
      return Unpin(engine, session, key);
    case proto::Mark::TOUCH:
      return engine->Touch(key);
    case proto::Mark::PREFETCH:
      return engine->Prefetch(key, deadline);
    case proto::Mark::REMOVE:
      return engine->Remove(key.ns, key.identity);
    case proto::Mark::SUSPECT: {
      const absl::Status status = engine->Suspect(key);
      service->log.Warning("suspect", {{"identity", key.identity.Hex()},
                                       {"namespace", key.ns},
                                       {"outcome", absl::StatusCodeToString(status.code())}});
      return status;
    }
    default:
      return absl::UnimplementedError("unknown act");
  }
}

}  // namespace

Right RightFor(proto::Mark::Act act) {
  return act == proto::Mark::PIN || act == proto::Mark::UNPIN || act == proto::Mark::REMOVE ? Right::kWrite
                                                                                            : Right::kRead;
}

bool IsIndexing(proto::Mark::Act act) {
  return act == proto::Mark::REMOVE || act == proto::Mark::SUSPECT || act == proto::Mark::PREFETCH;
}

void DoMark(std::shared_ptr<Call> call) {
  const proto::Mark& mark = call->request().mark();
  Session* const session = call->session().get();
  // Counted acts must not be done twice by a request that came twice.
  const bool counted = mark.act() == proto::Mark::PIN || mark.act() == proto::Mark::UNPIN;
  if (counted) {
    std::string answer;
    switch (session->answers().Begin(call->id(), &answer)) {
      case AnswerMemory::State::kAnswered:
        return call->Repeat({answer.data(), answer.size()});
      case AnswerMemory::State::kUnderWay:
        return call->Refuse(absl::UnavailableError("this request is being carried out: ask again"));
      case AnswerMemory::State::kNew:
        break;
    }
  }
  proto::Answer answer;
  std::string* const codes = answer.mutable_marked()->mutable_codes();
  for (const Identity& identity : UnpackIdentities({mark.identities().data(), mark.identities().size()})) {
    absl::Status status = absl::DeadlineExceededError("");
    if (SteadyNow() < call->deadline()) {
      status =
          DoOne(call->service(), session, mark.act(), call->KeyOf(BytesOf(identity), mark.codec()), call->deadline());
    }
    codes->push_back(static_cast<char>(status.code()));
  }
  if (!counted) return call->Answer(std::move(answer));
  answer.set_id(call->id());
  const std::string bytes = SerializeAnswer(answer);
  session->answers().Finish(call->id(), bytes);
  call->Repeat({bytes.data(), bytes.size()});
}

}  // namespace kvlink::store
