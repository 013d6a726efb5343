"""The messages and services of the gRPC dialects, described in words of our own: names, numbers and types are facts.

The file names and packages are the original ones, for clients that ask by reflection. Left out is what no request to this
server needs. `service/config/protobuf.py` describes the form, and has the messages that config files share with gRPC.
"""

FILES = """
file tensorflow/core/example/feature.proto tensorflow
message BytesList value=1:*bytes
message FloatList value=1:*float
message Int64List value=1:*int64
message Feature kind/bytes_list=1:BytesList kind/float_list=2:FloatList kind/int64_list=3:Int64List
message Features feature=1:map:Feature

file tensorflow/core/example/example.proto tensorflow tensorflow/core/example/feature.proto
message Example features=1:Features

file tensorflow/core/framework/tensor_shape.proto tensorflow
message TensorShapeProto dim=2:*TensorShapeProto.Dim unknown_rank=3:bool
message TensorShapeProto.Dim size=1:int64 name=2:string

file tensorflow/core/framework/types.proto tensorflow
enum DataType DT_INVALID=0 DT_FLOAT=1 DT_DOUBLE=2 DT_INT32=3 DT_UINT8=4 DT_INT16=5 DT_INT8=6 DT_STRING=7 DT_COMPLEX64=8
  DT_INT64=9 DT_BOOL=10 DT_QINT8=11 DT_QUINT8=12 DT_QINT32=13 DT_BFLOAT16=14 DT_QINT16=15 DT_QUINT16=16 DT_UINT16=17
  DT_COMPLEX128=18 DT_HALF=19 DT_RESOURCE=20 DT_VARIANT=21 DT_UINT32=22 DT_UINT64=23 DT_FLOAT8_E5M2=24
  DT_FLOAT8_E4M3FN=25 DT_FLOAT8_E4M3FNUZ=26 DT_FLOAT8_E4M3B11FNUZ=27 DT_FLOAT8_E5M2FNUZ=28 DT_INT4=29 DT_UINT4=30
  DT_INT2=31 DT_UINT2=32 DT_FLOAT4_E2M1FN=33 DT_FLOAT_REF=101 DT_DOUBLE_REF=102 DT_INT32_REF=103 DT_UINT8_REF=104
  DT_INT16_REF=105 DT_INT8_REF=106 DT_STRING_REF=107 DT_COMPLEX64_REF=108 DT_INT64_REF=109 DT_BOOL_REF=110
  DT_QINT8_REF=111 DT_QUINT8_REF=112 DT_QINT32_REF=113 DT_BFLOAT16_REF=114 DT_QINT16_REF=115 DT_QUINT16_REF=116
  DT_UINT16_REF=117 DT_COMPLEX128_REF=118 DT_HALF_REF=119 DT_RESOURCE_REF=120 DT_VARIANT_REF=121 DT_UINT32_REF=122
  DT_UINT64_REF=123

file tensorflow/core/framework/tensor.proto tensorflow tensorflow/core/framework/tensor_shape.proto
  tensorflow/core/framework/types.proto
message TensorProto dtype=1:%DataType tensor_shape=2:TensorShapeProto version_number=3:int32 tensor_content=4:bytes
  half_val=13:*int32 float_val=5:*float double_val=6:*double int_val=7:*int32 string_val=8:*bytes scomplex_val=9:*float
  int64_val=10:*int64 bool_val=11:*bool dcomplex_val=12:*double uint32_val=16:*uint32 uint64_val=17:*uint64
  float8_val=18:bytes

file tensorflow/core/protobuf/meta_graph.proto tensorflow tensorflow/core/framework/tensor.proto
  tensorflow/core/framework/tensor_shape.proto tensorflow/core/framework/types.proto
message TensorInfo encoding/name=1:string dtype=2:%DataType tensor_shape=3:TensorShapeProto
message SignatureDef inputs=1:map:TensorInfo outputs=2:map:TensorInfo method_name=3:string defaults=4:map:TensorProto

file xla/tsl/protobuf/error_codes.proto tensorflow.error
enum Code OK=0 CANCELLED=1 UNKNOWN=2 INVALID_ARGUMENT=3 DEADLINE_EXCEEDED=4 NOT_FOUND=5 ALREADY_EXISTS=6
  PERMISSION_DENIED=7 RESOURCE_EXHAUSTED=8 FAILED_PRECONDITION=9 ABORTED=10 OUT_OF_RANGE=11 UNIMPLEMENTED=12 INTERNAL=13
  UNAVAILABLE=14 DATA_LOSS=15 UNAUTHENTICATED=16

file tensorflow_serving/apis/status.proto tensorflow.serving xla/tsl/protobuf/error_codes.proto
message StatusProto error_code=1:%.tensorflow.error.Code error_message=2:string

file tensorflow_serving/apis/model.proto tensorflow.serving google/protobuf/wrappers.proto
message ModelSpec name=1:string version_choice/version=2:.google.protobuf.Int64Value version_choice/version_label=4:string
  signature_name=3:string

file tensorflow_serving/apis/input.proto tensorflow.serving tensorflow/core/example/example.proto
message ExampleList examples=1:*.tensorflow.Example
message ExampleListWithContext examples=1:*.tensorflow.Example context=2:.tensorflow.Example
message Input kind/example_list=1:ExampleList kind/example_list_with_context=2:ExampleListWithContext

file tensorflow_serving/apis/predict.proto tensorflow.serving tensorflow/core/framework/tensor.proto
  tensorflow_serving/apis/model.proto
message PredictRequest model_spec=1:ModelSpec inputs=2:map:.tensorflow.TensorProto output_filter=3:*string
message PredictResponse outputs=1:map:.tensorflow.TensorProto model_spec=2:ModelSpec

file tensorflow_serving/apis/classification.proto tensorflow.serving tensorflow_serving/apis/input.proto
  tensorflow_serving/apis/model.proto
message Class label=1:string score=2:float
message Classifications classes=1:*Class
message ClassificationResult classifications=1:*Classifications
message ClassificationRequest model_spec=1:ModelSpec input=2:Input
message ClassificationResponse result=1:ClassificationResult model_spec=2:ModelSpec

file tensorflow_serving/apis/regression.proto tensorflow.serving tensorflow_serving/apis/input.proto
  tensorflow_serving/apis/model.proto
message Regression value=1:float
message RegressionResult regressions=1:*Regression
message RegressionRequest model_spec=1:ModelSpec input=2:Input
message RegressionResponse result=1:RegressionResult model_spec=2:ModelSpec

file tensorflow_serving/apis/inference.proto tensorflow.serving tensorflow_serving/apis/classification.proto
  tensorflow_serving/apis/input.proto tensorflow_serving/apis/model.proto tensorflow_serving/apis/regression.proto
message InferenceTask model_spec=1:ModelSpec method_name=2:string
message InferenceResult model_spec=1:ModelSpec result/classification_result=2:ClassificationResult
  result/regression_result=3:RegressionResult
message MultiInferenceRequest tasks=1:*InferenceTask input=2:Input
message MultiInferenceResponse results=1:*InferenceResult

file tensorflow_serving/apis/get_model_metadata.proto tensorflow.serving google/protobuf/any.proto
  tensorflow/core/protobuf/meta_graph.proto tensorflow_serving/apis/model.proto
message SignatureDefMap signature_def=1:map:.tensorflow.SignatureDef
message GetModelMetadataRequest model_spec=1:ModelSpec metadata_field=2:*string
message GetModelMetadataResponse model_spec=1:ModelSpec metadata=2:map:.google.protobuf.Any

file tensorflow_serving/apis/prediction_service.proto tensorflow.serving tensorflow_serving/apis/classification.proto
  tensorflow_serving/apis/get_model_metadata.proto tensorflow_serving/apis/inference.proto
  tensorflow_serving/apis/predict.proto tensorflow_serving/apis/regression.proto
service PredictionService Classify:ClassificationRequest>ClassificationResponse Regress:RegressionRequest>RegressionResponse
  Predict:PredictRequest>PredictResponse MultiInference:MultiInferenceRequest>MultiInferenceResponse
  GetModelMetadata:GetModelMetadataRequest>GetModelMetadataResponse

file tensorflow_serving/apis/get_model_status.proto tensorflow.serving tensorflow_serving/apis/model.proto
  tensorflow_serving/apis/status.proto
message GetModelStatusRequest model_spec=1:ModelSpec
message ModelVersionStatus version=1:int64 state=2:%ModelVersionStatus.State status=3:StatusProto
enum ModelVersionStatus.State UNKNOWN=0 START=10 LOADING=20 AVAILABLE=30 UNLOADING=40 END=50
message GetModelStatusResponse model_version_status=1:*ModelVersionStatus

file tensorflow_serving/apis/model_management.proto tensorflow.serving tensorflow_serving/apis/status.proto
  tensorflow_serving/config/model_server_config.proto
message ReloadConfigRequest config=1:ModelServerConfig metric_names=2:*string
message ReloadConfigResponse status=1:StatusProto metric=2:*Metric
message Metric name=1:string value_increase/int64_value_increase=2:int64

file tensorflow_serving/apis/model_service.proto tensorflow.serving tensorflow_serving/apis/get_model_status.proto
  tensorflow_serving/apis/model_management.proto
service ModelService GetModelStatus:GetModelStatusRequest>GetModelStatusResponse
  HandleReloadConfigRequest:ReloadConfigRequest>ReloadConfigResponse

file grpc_service.proto inference model_config.proto
message ServerLiveRequest
message ServerLiveResponse live=1:bool
message ServerReadyRequest
message ServerReadyResponse ready=1:bool
message ModelReadyRequest name=1:string version=2:string
message ModelReadyResponse ready=1:bool
message ServerMetadataRequest
message ServerMetadataResponse name=1:string version=2:string extensions=3:*string
message ModelMetadataRequest name=1:string version=2:string
message ModelMetadataResponse name=1:string versions=2:*string platform=3:string
  inputs=4:*ModelMetadataResponse.TensorMetadata outputs=5:*ModelMetadataResponse.TensorMetadata
message ModelMetadataResponse.TensorMetadata name=1:string datatype=2:string shape=3:*int64
message InferParameter parameter_choice/bool_param=1:bool parameter_choice/int64_param=2:int64
  parameter_choice/string_param=3:string parameter_choice/double_param=4:double parameter_choice/uint64_param=5:uint64
message InferTensorContents bool_contents=1:*bool int_contents=2:*int32 int64_contents=3:*int64 uint_contents=4:*uint32
  uint64_contents=5:*uint64 fp32_contents=6:*float fp64_contents=7:*double bytes_contents=8:*bytes
message ModelInferRequest model_name=1:string model_version=2:string id=3:string parameters=4:map:InferParameter
  inputs=5:*ModelInferRequest.InferInputTensor outputs=6:*ModelInferRequest.InferRequestedOutputTensor
  raw_input_contents=7:*bytes
message ModelInferRequest.InferInputTensor name=1:string datatype=2:string shape=3:*int64 parameters=4:map:InferParameter
  contents=5:InferTensorContents
message ModelInferRequest.InferRequestedOutputTensor name=1:string parameters=2:map:InferParameter
message ModelInferResponse model_name=1:string model_version=2:string id=3:string parameters=4:map:InferParameter
  outputs=5:*ModelInferResponse.InferOutputTensor raw_output_contents=6:*bytes
message ModelInferResponse.InferOutputTensor name=1:string datatype=2:string shape=3:*int64
  parameters=4:map:InferParameter contents=5:InferTensorContents
message ModelStreamInferResponse error_message=1:string infer_response=2:ModelInferResponse
message ModelRepositoryParameter parameter_choice/bool_param=1:bool parameter_choice/int64_param=2:int64
  parameter_choice/string_param=3:string parameter_choice/bytes_param=4:bytes
message ModelConfigRequest name=1:string version=2:string
message ModelConfigResponse config=1:ModelConfig
message ModelStatisticsRequest name=1:string version=2:string
message ModelStatisticsResponse model_stats=1:*ModelStatistics
message StatisticDuration count=1:uint64 ns=2:uint64
message InferStatistics success=1:StatisticDuration fail=2:StatisticDuration queue=3:StatisticDuration
  compute_input=4:StatisticDuration compute_infer=5:StatisticDuration compute_output=6:StatisticDuration
  cache_hit=7:StatisticDuration cache_miss=8:StatisticDuration
message InferBatchStatistics batch_size=1:uint64 compute_input=2:StatisticDuration compute_infer=3:StatisticDuration
  compute_output=4:StatisticDuration
message ModelStatistics name=1:string version=2:string last_inference=3:uint64 inference_count=4:uint64
  execution_count=5:uint64 inference_stats=6:InferStatistics batch_stats=7:*InferBatchStatistics
message RepositoryIndexRequest repository_name=1:string ready=2:bool
message RepositoryIndexResponse models=1:*RepositoryIndexResponse.ModelIndex
message RepositoryIndexResponse.ModelIndex name=1:string version=2:string state=3:string reason=4:string
message RepositoryModelLoadRequest repository_name=1:string model_name=2:string parameters=3:map:ModelRepositoryParameter
message RepositoryModelLoadResponse
message RepositoryModelUnloadRequest repository_name=1:string model_name=2:string parameters=3:map:ModelRepositoryParameter
message RepositoryModelUnloadResponse
service GRPCInferenceService ServerLive:ServerLiveRequest>ServerLiveResponse ServerReady:ServerReadyRequest>ServerReadyResponse
  ModelReady:ModelReadyRequest>ModelReadyResponse ServerMetadata:ServerMetadataRequest>ServerMetadataResponse
  ModelMetadata:ModelMetadataRequest>ModelMetadataResponse ModelInfer:ModelInferRequest>ModelInferResponse
  ModelStreamInfer:*ModelInferRequest>*ModelStreamInferResponse ModelConfig:ModelConfigRequest>ModelConfigResponse
  ModelStatistics:ModelStatisticsRequest>ModelStatisticsResponse
  RepositoryIndex:RepositoryIndexRequest>RepositoryIndexResponse
  RepositoryModelLoad:RepositoryModelLoadRequest>RepositoryModelLoadResponse
  RepositoryModelUnload:RepositoryModelUnloadRequest>RepositoryModelUnloadResponse

file grpc/health/v1/health.proto grpc.health.v1
message HealthCheckRequest service=1:string
message HealthCheckResponse status=1:%HealthCheckResponse.ServingStatus
enum HealthCheckResponse.ServingStatus UNKNOWN=0 SERVING=1 NOT_SERVING=2 SERVICE_UNKNOWN=3
message HealthListRequest
message HealthListResponse statuses=1:map:HealthCheckResponse
service Health Check:HealthCheckRequest>HealthCheckResponse List:HealthListRequest>HealthListResponse
  Watch:HealthCheckRequest>*HealthCheckResponse
"""

# One text for both versions of the protocol; only their package differs.
REFLECTION = """
file grpc/reflection/{version}/reflection.proto grpc.reflection.{version}
message ServerReflectionRequest host=1:string message_request/file_by_filename=3:string
  message_request/file_containing_symbol=4:string message_request/file_containing_extension=5:ExtensionRequest
  message_request/all_extension_numbers_of_type=6:string message_request/list_services=7:string
message ExtensionRequest containing_type=1:string extension_number=2:int32
message ServerReflectionResponse valid_host=1:string original_request=2:ServerReflectionRequest
  message_response/file_descriptor_response=4:FileDescriptorResponse
  message_response/all_extension_numbers_response=5:ExtensionNumberResponse
  message_response/list_services_response=6:ListServiceResponse message_response/error_response=7:ErrorResponse
message FileDescriptorResponse file_descriptor_proto=1:*bytes
message ExtensionNumberResponse base_type_name=1:string extension_number=2:*int32
message ListServiceResponse service=1:*ServiceResponse
message ServiceResponse name=1:string
message ErrorResponse error_code=1:int32 error_message=2:string
service ServerReflection ServerReflectionInfo:*ServerReflectionRequest>*ServerReflectionResponse
"""
