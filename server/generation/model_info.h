// The answer of GetModelInfo.
#ifndef PACKRAT_SERVER_GENERATION_MODEL_INFO_H_
#define PACKRAT_SERVER_GENERATION_MODEL_INFO_H_

namespace packrat {

namespace v1 {
class GetModelInfoResponse;
}
struct ServedModel;
struct ServerOptions;

void FillModelInfo(const ServedModel& served, const ServerOptions& options,
                   v1::GetModelInfoResponse* info);

}  // namespace packrat

#endif  // PACKRAT_SERVER_GENERATION_MODEL_INFO_H_
