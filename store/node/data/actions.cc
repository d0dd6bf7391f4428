#include "store/node/data/actions.h"

#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/clock.h"
#include "base/status.h"
#include "store/node/data/context.h"

namespace kvlink::store::node {
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

absl::Status DoOne(DataContext* context, Session* session, proto::EncodingAction::Action action,
                   const engine::EncodingKey& key, absl::Time deadline) {
  engine::Engine* const engine = context->core->engine.get();
  switch (action) {
    case proto::EncodingAction::PIN:
      return Pin(engine, session, key);
    case proto::EncodingAction::UNPIN:
      return Unpin(engine, session, key);
    case proto::EncodingAction::TOUCH:
      return engine->Touch(key);
    case proto::EncodingAction::PREFETCH:
      return engine->Prefetch(key, deadline);
    case proto::EncodingAction::REMOVE:
      return engine->Remove(key.ns, key.identity);
    case proto::EncodingAction::SUSPECT: {
      const absl::Status status = engine->Suspect(key);
      context->log.Warning("suspect", {{"identity", key.identity.Hex()},
                                       {"namespace", key.ns},
                                       {"outcome", absl::StatusCodeToString(status.code())}});
      return status;
    }
    default:
      return absl::UnimplementedError("unknown action");
  }
}

// A node acts on an encoding it does not own, if it has it. Misses and removals then concern the owner too; a pin
// exists only where it was made.
bool HasMoved(const Call& call, proto::EncodingAction::Action action, const Identity& identity,
              const absl::Status& status) {
  if (action == proto::EncodingAction::UNPIN) return false;
  const bool elsewhere = absl::IsNotFound(status) || (action == proto::EncodingAction::REMOVE && status.ok());
  return elsewhere && !call.Owns(identity);
}

}  // namespace

Right RightFor(proto::EncodingAction::Action action) {
  return action == proto::EncodingAction::PIN || action == proto::EncodingAction::UNPIN ||
                 action == proto::EncodingAction::REMOVE
             ? Right::kWrite
             : Right::kRead;
}

bool IsIndexing(proto::EncodingAction::Action action) {
  return action == proto::EncodingAction::REMOVE || action == proto::EncodingAction::SUSPECT ||
         action == proto::EncodingAction::PREFETCH;
}

void DoAction(std::shared_ptr<Call> call) {
  const proto::EncodingAction& action = call->request().action();
  Session* const session = call->session().get();
  // Counted actions must not be carried out twice for a repeated request.
  const bool counted = action.action() == proto::EncodingAction::PIN || action.action() == proto::EncodingAction::UNPIN;
  if (counted) {
    std::string answer;
    switch (session->answers().Begin(call->id(), &answer)) {
      case ReplyCache::State::kAnswered:
        return call->Repeat({answer.data(), answer.size()});
      case ReplyCache::State::kUnderWay:
        return call->Refuse(absl::UnavailableError("this request is being carried out: ask again"));
      case ReplyCache::State::kNew:
        break;
    }
  }
  proto::Answer answer;
  std::string* const codes = answer.mutable_action_done()->mutable_codes();
  for (const Identity& identity : UnpackIdentities({action.identities().data(), action.identities().size()})) {
    absl::Status status = absl::DeadlineExceededError("");
    if (SteadyNow() < call->deadline()) {
      status = DoOne(call->context(), session, action.action(), call->KeyOf(BytesOf(identity), action.codec()),
                     call->deadline());
    }
    const bool moved = HasMoved(*call, action.action(), identity, status);
    codes->push_back(static_cast<char>(moved ? kMovedCode : static_cast<uint8_t>(status.code())));
    if (moved) answer.mutable_action_done()->set_epoch(call->epoch());
  }
  if (!counted) return call->Answer(std::move(answer));
  answer.set_id(call->id());
  const std::string bytes = SerializeAnswer(answer, call->connection()->protocol());
  session->answers().Finish(call->id(), bytes);
  call->Repeat({bytes.data(), bytes.size()});
}

}  // namespace kvlink::store::node
