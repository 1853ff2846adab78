"""The routes of videos from uploads: send, ask, fetch, remove."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from fastapi import FastAPI, HTTPException, Request
from fastapi.responses import FileResponse, JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.datastructures import FormData, UploadFile

from liveact_app.serve.faces import FACES, STATIC
from liveact_app.serve.files import DONE, PICTURE, RECORDING, Video
from liveact_app.serve.hall import Wish
from liveact_app.serve.protocol import LONGEST_PROMPT, sentence
from liveact_app.serve.settings import Settings
from liveact_model.errors import InputError

FORM = "multipart/form-data"


class Fields(BaseModel):
    """The fields of an upload that are no files."""

    model_config = ConfigDict(extra="forbid")

    face: str | None = Field(None, max_length=40)
    prompt: str = Field("A person is talking.", max_length=LONGEST_PROMPT)
    width: int | None = Field(None, ge=16, le=4096, multiple_of=16)
    height: int | None = Field(None, ge=16, le=4096, multiple_of=16)
    fps: float | None = Field(None, ge=1, le=60)
    seed: int = Field(42, ge=0, le=2**63 - 1)
    scale: int = Field(1, ge=1, le=8)


class Told(BaseModel):
    """How far a video is."""

    id: str
    state: str
    video_frames: int
    of: int | None
    error: str | None


class Fault(BaseModel):
    """One sentence."""

    error: str


_FILE = {"type": "string", "format": "binary"}
_PROPERTIES = Fields.model_json_schema()["properties"] | {"face": {"type": "string", "enum": list(FACES)}}
_BODY = {"requestBody": {"required": True, "content": {FORM: {"schema": {
    "type": "object", "required": ["audio"], "additionalProperties": False,
    "oneOf": [{"required": ["image"]}, {"required": ["face"]}],
    "dependentRequired": {"width": ["height"], "height": ["width"]},
    "properties": {"image": _FILE, "audio": _FILE, **_PROPERTIES},
}}}}}  # fmt: skip


def _faults(*codes: int) -> dict[int | str, dict[str, Any]]:
    return {code: {"model": Fault} for code in codes}


def add_uploads(app: FastAPI, state: Any) -> None:
    """Register the routes."""
    files, settings = state.files, state.settings

    def found(number: str) -> Video:
        video = files.get(number)
        if video is None:
            raise HTTPException(404, "video: expected the id of one that is here, got another")
        return video

    async def placed(form: FormData, place: Callable[[Wish], Video]) -> Video:
        wish, face = _wish(form)
        picture = _file(form, "image", settings.picture_bytes)
        recording = _file(form, "audio", settings.upload_bytes)
        if recording is None:
            raise InputError("audio: expected a recording, got none")
        if (picture is None) == (face is None):
            raise InputError("image: expected a picture, or face in its place, got " + ("both" if face else "none"))
        source = picture.file if picture is not None else _shipped(face or "")
        video = place(wish)
        try:
            await asyncio.to_thread(_put, source, video.folder / PICTURE)
            await asyncio.to_thread(_put, recording.file, video.folder / RECORDING)
            await asyncio.to_thread(files.look, video)
        except BaseException:
            files.remove(video)
            raise
        return video

    @app.post("/api/videos", status_code=202, response_model=Told, openapi_extra=_BODY,
              summary="A picture (or a face that ships) and a recording to a video",
              responses=_faults(400, 401, 403, 408, 413, 415, 422, 429))  # fmt: skip
    async def send(request: Request) -> Any:
        kind = request.headers.get("content-type", "")
        if kind.partition(";")[0].strip().lower() != FORM:
            raise HTTPException(415, f"content-type: expected {FORM}, got {kind!r:.80}")
        with files.arriving() as place:
            form = await _form(request, settings)
            try:
                video = await placed(form, place)
            finally:
                await form.close()
        files.start(video)
        return JSONResponse(video.told(), 202, headers={"Location": f"/api/videos/{video.id}"})

    @app.get("/api/videos/{number}", response_model=Told, summary="How far it is", responses=_faults(401, 404))
    async def ask(number: str) -> Any:
        return found(number).told()

    @app.get("/api/videos/{number}/file", response_class=FileResponse, summary="The video",
             responses={200: {"content": {"video/mp4": {}}}, **_faults(401, 404, 409)})  # fmt: skip
    async def fetch(number: str) -> FileResponse:
        video = found(number)
        if video.state != DONE:
            raise HTTPException(409, video.error or f"video: expected one that is done, this one is {video.state}")
        return FileResponse(video.result, media_type="video/mp4", filename="liveact.mp4")

    @app.delete("/api/videos/{number}", status_code=204, response_class=Response, summary="Stop or forget it",
                responses=_faults(401, 403, 404))  # fmt: skip
    async def remove(number: str) -> Response:
        files.remove(found(number))
        return Response(status_code=204)


async def _form(request: Request, settings: Settings) -> FormData:
    """The whole of a form, to be closed. One that never ends would hold its place for ever."""

    async def read() -> FormData:
        return await request.form(max_files=2, max_fields=10, max_part_size=settings.json_bytes)

    within = settings.upload_within_s
    try:
        return await asyncio.wait_for(read(), within)
    except asyncio.TimeoutError:
        raise HTTPException(408, f"body: expected all of it within {within:g} s, got less") from None


def _wish(form: FormData) -> tuple[Wish, str | None]:
    """What a form asks for. Raises InputError."""
    values = {k: v for k, v in form.multi_items() if isinstance(v, str)}
    try:
        f = Fields.model_validate(values)
    except ValidationError as error:
        raise InputError(sentence(error)) from None
    if (f.width is None) != (f.height is None):
        raise InputError(f"size: expected width and height together, got {f.width} and {f.height}")
    size = None if f.width is None or f.height is None else (f.width, f.height)
    return Wish(f.prompt, size, f.fps, f.seed, f.scale), f.face


def _file(form: FormData, name: str, most: int) -> UploadFile | None:
    found = form.get(name)
    if found is None:
        return None
    if not isinstance(found, UploadFile):
        raise InputError(f"{name}: expected a file, got text")
    if not found.size:
        raise InputError(f"{name}: expected a file, got 0 bytes")
    if found.size > most:
        raise HTTPException(413, f"{name}: expected at most {most} bytes, got {found.size}")
    return found


def _shipped(face: str) -> Any:
    if face not in FACES:
        raise InputError(f"face: expected one of {', '.join(FACES)}, got {face!r:.60}")
    return STATIC / "faces" / FACES[face]


def _put(source: Any, path: Path) -> None:
    if isinstance(source, Path):
        shutil.copyfile(source, path)
        return
    source.seek(0)
    with open(path, "wb") as out:
        shutil.copyfileobj(source, out)
